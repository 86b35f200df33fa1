#include <lora/lora.h>

#include <stdio.h>

int main(void)
{
    puts(lora_build_info());
    return 0;
}
