# Short and long, any container.
lora hash portrait.safetensors words.safetensors
lora hash --all --json ink.safetensors
