# Totals, and with --verbose every layer.
lora resize portrait.safetensors -o small.safetensors --energy 0.98 \
    --backend builtin
lora resize portrait.safetensors -o four.safetensors --rank 4 --conv-rank 2 \
    --module-rank '*attn1_to_q=1' --dry-run --verbose --threads 1 \
    --backend builtin 2>/dev/null | sed -n 1,15p
