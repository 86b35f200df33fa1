# Outputs that cannot be, told before any work is done.
# exit 1
lora convert portrait.safetensors -o ink.safetensors
lora convert portrait.safetensors -o folder
lora convert portrait.safetensors -o nowhere/x.safetensors
lora convert portrait.safetensors -o portrait.safetensors
