# What a newcomer sees first.
lora info portrait.safetensors
lora info ink.safetensors unknown.safetensors model.safetensors half.safetensors
