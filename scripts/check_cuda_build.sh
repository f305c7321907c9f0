#!/bin/sh
# Configures and compiles the CUDA build on a machine that has nvcc and no GPU, cuBLAS or driver: cuBLAS comes from
# NVIDIA's wheel, and without VMM nothing links the driver.
#
#   scripts/check_cuda_build.sh                  the whole library, 20 minutes and more on two cores
#   scripts/check_cuda_build.sh configure        configure only
#   scripts/check_cuda_build.sh TARGET...        these Ninja targets only, e.g. 'norm.cu.o' for one object file
#
# ARCH (default 90a-real), JOBS (default 2) and PYTHON (default python3) come from the environment.
set -eu
cd "$(dirname "$0")/.."
build=build/cuda
venv=$build/venv

[ -x "$venv/bin/cmake" ] || {
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet 'nvidia-cublas==13.0.*' cmake ninja scikit-build-core
}
PATH="$PWD/$venv/bin:$PATH"
cuda=$("$venv/bin/python" -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])')

cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGEMBED_CUDA=ON -DGGML_CUDA_NO_VMM=ON \
    -DCMAKE_CUDA_ARCHITECTURES="${ARCH:-90a-real}" \
    -DCMAKE_CUDA_FLAGS="-isystem $cuda/include" \
    -DCUDA_cublas_LIBRARY="$(ls "$cuda"/lib/libcublas.so.*)" \
    -DCUDA_cublasLt_LIBRARY="$(ls "$cuda"/lib/libcublasLt.so.*)"

case "${1:-}" in
configure) ;;
"") exec ninja -C "$build" -j "${JOBS:-2}" ;;
*)
    for target; do
        ninja -C "$build" -j "${JOBS:-2}" "$(ninja -C "$build" -t targets all | sed -n "s|^\(.*/$target\): .*|\1|p" | head -n 1)"
    done
    ;;
esac
