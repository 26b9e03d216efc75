// How the result of a dense product is stored.
#pragma once

#include "ptx.cuh"

enum class OutputForm : uint32_t {
    Bf16,
    Float,
    Added, // to the float that is there
};

__device__ __forceinline__ void write_output(void* out, OutputForm form, size_t at, float sum) {
    float* to = static_cast<float*>(out) + at;
    switch (form) {
        case OutputForm::Bf16: static_cast<bf16*>(out)[at] = to_bf16(sum); break;
        case OutputForm::Float: *to = sum; break;
        case OutputForm::Added: add_float(to, sum); break;
    }
}
