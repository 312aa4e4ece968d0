/* Read first by `make tidy` only. clang's analyzer cannot see from another file that err_set returns its second argument,
 * and would follow paths on which a failure looks like a success. */
#include "core/err.h"
#define err_set(e, c, ...) ((void)err_set((e), (c), __VA_ARGS__), (c))
