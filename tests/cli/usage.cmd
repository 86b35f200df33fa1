# Mistakes in the command line.
# exit 2
lora rezise
lora info
lora info --moduls portrait.safetensors
lora resize portrait.safetensors
lora resize portrait.safetensors -o x.safetensors
lora resize portrait.safetensors -o x.safetensors --energy 1.5
lora resize portrait.safetensors -o x.safetensors --rank 4 --memory lots
lora convert portrait.safetensors -o x.safetensors --dtype f12
