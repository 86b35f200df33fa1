# In, listed, out again, and left out; refused twice.
# exit 4
lora embed insert portrait.safetensors token.safetensors -o both.safetensors
lora embed list both.safetensors token.safetensors portrait.safetensors
lora embed list both.safetensors --json
lora embed extract both.safetensors '<cat>' -o cat.safetensors
lora embed remove both.safetensors -o none.safetensors
lora embed insert both.safetensors token.safetensors -o result.safetensors
lora embed extract both.safetensors dog -o result.safetensors
