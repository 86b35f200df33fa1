# What is left out, the wrong base, and nothing that fits.
# exit 4
lora bind portrait.safetensors --family sd15 --select te=0 --select M00=0.5 \
    --select attn.cross=2 | grep -n -e bound: -e bound -m 4
lora bind portrait.safetensors --family sd15 --select te=0 --select M00=0.5 \
    --select attn.cross=2 | grep -e mid_block -e encoder_layers_1_
lora bind portrait.safetensors --family flux1_dev | head -n 4
lora bind half.safetensors --base before.safetensors --strict
