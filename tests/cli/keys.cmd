# Names, number types, shapes, offsets, roles, targets.
lora keys unknown.safetensors peft
lora keys --json model.safetensors
