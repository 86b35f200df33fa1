#include "op/undo.h"
LORA_PRIVATE lora_status lora__undo_create(lora__undo **out,const lora__patched *patched,const char *path,int mode,int overwrite,lora_error *error){(void)patched;(void)path;(void)mode;(void)overwrite;*out=NULL;return lora__fail(error,LORA_ERROR_UNSUPPORTED,LORA_NO_OFFSET,"undo","not yet");}
LORA_PRIVATE lora_status lora__undo_put(lora__undo *undo,size_t tensor,uint64_t offset,const void *before,const void *after,const void *predicted,size_t bytes,lora_error *error){(void)undo;(void)tensor;(void)offset;(void)before;(void)after;(void)predicted;(void)bytes;(void)error;return LORA_OK;}
LORA_PRIVATE lora_status lora__undo_hash(lora__undo *undo,size_t tensor,const uint8_t before[32],const uint8_t after[32],lora_error *error){(void)undo;(void)tensor;(void)before;(void)after;(void)error;return LORA_OK;}
LORA_PRIVATE lora_status lora__undo_finish(lora__undo *undo,lora_error *error){(void)undo;(void)error;return LORA_OK;}
LORA_PRIVATE void lora__undo_abort(lora__undo *undo){(void)undo;}
LORA_PRIVATE lora_status lora__undo_predict(void *out,const void *fused,const float *change,lora_dtype dtype,float scale,size_t count,const lora__kernels *kernels,lora_error *error){(void)out;(void)fused;(void)change;(void)dtype;(void)scale;(void)count;(void)kernels;(void)error;return LORA_OK;}
