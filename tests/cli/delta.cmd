# Dense changes.
lora delta half.safetensors -o dense.safetensors --skip-bad
lora keys dense.safetensors
