# Shown, changed in the file itself, copied.
# exit 3
lora meta portrait.safetensors
lora meta portrait.safetensors --unset 'ss_*' --set title='Mein Porträt'
lora meta portrait.safetensors --unset 'ss_*' --set title='Mein Porträt' --force
lora meta portrait.safetensors --json
lora meta portrait.safetensors --set thumbnail=data:, -o copy.safetensors
lora meta portrait.safetensors --set title=x --set title=y --force
lora meta words.safetensors --set title=x --force
