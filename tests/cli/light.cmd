# A Light-LoRA made, trained elsewhere, checked and expanded.
# exit 4
lora light create -o start.safetensors --family sd15 --store \
    --target '*mid_block*attn1.to_q' --target '*down_blocks.0*attn2.to_k'
lora light verify start.safetensors
lora light compress start.safetensors -o small.safetensors --backend builtin
lora info small.safetensors --modules | tail -4
lora light expand small.safetensors -o plain.safetensors --dialect kohya
lora light verify start.safetensors --draws down_aux,up_aux | head -1
lora light verify start.safetensors --variant 2 --json | head -c 300
lora light verify small.safetensors
