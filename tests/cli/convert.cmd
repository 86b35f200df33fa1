# There and back.
lora convert portrait.safetensors -o there.safetensors --dialect diffusers
lora convert there.safetensors -o back.safetensors --dialect kohya --json
lora convert portrait.safetensors --dtype bf16 --dry-run
cmp portrait.safetensors back.safetensors && echo the same bytes
