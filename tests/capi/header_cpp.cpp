// The public header compiles alone as C++.
#include "ggembed.h"

int header_cpp_is_not_empty();

int header_cpp_is_not_empty() {
    return GGE_ABI_VERSION;
}
