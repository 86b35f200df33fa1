# The list, and one verb.
lora help
lora help resize
