# One line a module, hashes and metadata.
lora info --modules ink.safetensors | head -n 24
lora info --verbose --hash sha256 --hash auto_v3 portrait.safetensors 2>/dev/null
