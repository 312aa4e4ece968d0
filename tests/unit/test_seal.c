/* Every change of a sealed message on its way is noticed. */
#include "proto/seal.h"
#include "tests/support.h"
#include <criterion/criterion.h>
#include <string.h>

#define PART(s, n) ((view){ (s), (n) })

Test(seal, one_flipped_bit_anywhere_breaks_it)
{
    uint8_t a[40], b[300];
    support_fill_bytes(a, sizeof a, 1);
    support_fill_bytes(b, sizeof b, 2);
    view all[] = { PART(a, sizeof a), PART(b, sizeof b), PART("", 0) };
    uint64_t whole = seal_of(all, 3);
    for (size_t bit = 0; bit < 8 * (sizeof a + sizeof b); bit++) {
        uint8_t *at = bit / 8 < sizeof a ? &a[bit / 8] : &b[bit / 8 - sizeof a];
        *at = (uint8_t)(*at ^ 1u << bit % 8);
        cr_assert_neq(seal_of(all, 3), whole, "bit %zu", bit);
        *at = (uint8_t)(*at ^ 1u << bit % 8);
    }
    cr_expect_eq(seal_of(all, 3), whole);
}

Test(seal, bytes_that_move_to_another_frame_break_it)
{
    static const char bytes[] = "0123456789";
    uint64_t whole = seal_of((view[]){ PART(bytes, 4), PART(bytes + 4, 6) }, 2);
    for (size_t n = 0; n <= 10; n++)
        if (n != 4) cr_expect_neq(seal_of((view[]){ PART(bytes, n), PART(bytes + n, 10 - n) }, 2), whole, "%zu bytes in the first", n);
    cr_expect_neq(seal_of((view[]){ PART(bytes + 4, 6), PART(bytes, 4) }, 2), whole, "frames that change places");
    cr_expect_neq(seal_of((view[]){ PART(bytes, 10) }, 1), whole);
    cr_expect_neq(seal_of((view[]){ PART(bytes, 4), PART(bytes + 4, 6), PART(NULL, 0) }, 3), whole, "an empty frame more");
}
