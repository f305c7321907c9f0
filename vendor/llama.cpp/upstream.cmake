# The pin: which llama.cpp we build, and where its source archive comes from.
set(LLAMA_CPP_REPOSITORY "https://github.com/ggml-org/llama.cpp")
set(LLAMA_CPP_COMMIT     "0c1e57098")
set(LLAMA_CPP_DATE       "2026-10-01")
set(LLAMA_CPP_LICENSE    "MIT")

# pip fetches the source archive of this project, which carries the commit above under vendor/llama.cpp.
set(LLAMA_CPP_PYPI_NAME    "llama-cpp-python")
set(LLAMA_CPP_PYPI_VERSION "0.3.36")
set(LLAMA_CPP_ARCHIVE      "llama_cpp_python-0.3.36.tar.gz")
set(LLAMA_CPP_SHA256       "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e")
