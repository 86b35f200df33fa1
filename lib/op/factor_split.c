/* Splitting singular values between factors. */
#include "op/factor_split.h"

#include <math.h>

LORA_PRIVATE void lora__factors_split(lora__factors *f,
                                      const lora__kernels *kernels,
                                      lora_rank_split split,
                                      double scale,
                                      const double *sigma,
                                      size_t count)
{
    double root = sqrt(fabs(scale));

    for (size_t i = 0; i < count; i++) {
        double up = scale < 0.0 ? -root : root;
        double down = root;
        if (split == LORA_SPLIT_UP && sigma[i] > 0.0) {
            up = scale * sqrt(sigma[i]);
            down = 1.0 / sqrt(sigma[i]);
        }
        kernels->scale_f64(f->up_t + i * f->rows, up, f->rows);
        kernels->scale_f64(f->down + i * f->cols, down, f->cols);
    }
}
