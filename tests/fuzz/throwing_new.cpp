// The address sanitizer's operator new ends the process where the allocator has nothing to give. This one throws, as
// the standard's does, so that what a damaged file asks for is answered as in production.
#include <cstdlib>
#include <new>

void *operator new(std::size_t size) {
    void *p = std::malloc(size == 0 ? 1 : size);
    if (p == nullptr) {
        throw std::bad_alloc();
    }
    return p;
}

void *operator new(std::size_t size, const std::nothrow_t &) noexcept {
    return std::malloc(size == 0 ? 1 : size);
}

void operator delete(void *p) noexcept {
    std::free(p);
}

void operator delete(void *p, std::size_t) noexcept {
    std::free(p);
}

void operator delete(void *p, const std::nothrow_t &) noexcept {
    std::free(p);
}
