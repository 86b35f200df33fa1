# The verdict first, then findings by severity; the worst code wins.
# exit 4
lora check portrait.safetensors ink.safetensors unknown.safetensors \
    half.safetensors model.safetensors
