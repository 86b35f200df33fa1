# Inputs that are none, each told for what it is.
# exit 3
lora info missing.safetensors
lora info folder
lora info empty.safetensors
lora info page.safetensors
lora info pointer.safetensors
lora info words.safetensors
lora info cut.safetensors
lora keys --json cut.safetensors
lora resize cut.safetensors -o x.safetensors --rank 4
