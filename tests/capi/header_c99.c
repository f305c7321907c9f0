/* The public header compiles alone as C99. */
#include "ggembed.h"

int header_c99_is_not_empty(void);

int header_c99_is_not_empty(void) {
    return GGE_ABI_VERSION;
}
