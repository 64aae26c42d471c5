/* Quantization fused into a kernel that produces, dequantization into one that consumes, for those who move the bytes by a
 * collective library of their own: the codec is header only, and needs no libshmem to run.
 *
 * The producer computes rows of gelu(x) and writes records alone, a quarter of the bytes of float32; nothing else goes
 * through memory. The consumer adds the records of several producers into its rows, element by element as they are
 * unpacked. In between, cudaMemcpyAsync stands for any transport: an all-to-all of rows * quant_bytes(cols) bytes.
 *
 *     nvcc -std=c++17 -arch=native examples/fused_quant.cu -o fused_quant $(pyshmem config --cflags)
 *     ./fused_quant
 */
#include <cmath>
#include <cstdio>
#include <shmem_device.h>
#include <vector>

constexpr int producers = 4, rows = 256, cols = 3000;

__host__ __device__ float input(int producer, size_t i)
{
    return sinf(static_cast<float>(i) * 0.37f + static_cast<float>(producer)) * 3.0f;
}
__host__ __device__ float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

/* A block for each row. */
__global__ void __launch_bounds__(256) produce(unsigned char *records, int producer)
{
    const size_t row = blockIdx.x, first = row * cols;
    shmem::quantize(
        shmem::block, records + row * shmem::quant_bytes(cols),
        [=](shmem::size i) { return gelu(input(producer, first + i)); }, cols);
}

__global__ void __launch_bounds__(256) consume(float *sum, const unsigned char *records)
{
    const size_t row = blockIdx.x;
    float *to = sum + row * cols;
    shmem::dequantize(
        shmem::block, [=](shmem::size i, float value) { to[i] += value; },
        records + row * shmem::quant_bytes(cols), cols);
}

static bool failed(cudaError_t code)
{
    if (code != cudaSuccess)
        std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(code));
    return code != cudaSuccess;
}

int main()
{
    const size_t bytes = rows * shmem::quant_bytes(cols);
    unsigned char *records, *arrived;
    float *sum;
    if (failed(cudaMalloc(&records, bytes)) || failed(cudaMalloc(&arrived, bytes)) ||
        failed(cudaMalloc(&sum, sizeof(float) * rows * cols)) ||
        failed(cudaMemset(sum, 0, sizeof(float) * rows * cols)))
        return 2;
    for (int p = 0; p < producers; ++p) {
        produce<<<rows, 256>>>(records, p);
        if (failed(cudaMemcpyAsync(arrived, records, bytes, cudaMemcpyDeviceToDevice)))
            return 2;
        consume<<<rows, 256>>>(sum, arrived);
    }
    std::vector<float> got(static_cast<size_t>(rows) * cols);
    if (failed(cudaMemcpy(got.data(), sum, sizeof(float) * got.size(), cudaMemcpyDeviceToHost)))
        return 2;
    double signal = 0, noise = 0;
    for (size_t i = 0; i < got.size(); ++i) {
        double exact = 0;
        for (int p = 0; p < producers; ++p)
            exact += gelu(input(p, i));
        signal += exact * exact;
        noise += (exact - got[i]) * (exact - got[i]);
    }
    const double db = 10 * std::log10(signal / noise);
    std::printf("%d producers, %zu bytes each instead of %zu, SQNR of the sum %.1f dB\n", producers, bytes,
                sizeof(float) * got.size(), db);
    return db > 35 ? 0 : 1;
}
