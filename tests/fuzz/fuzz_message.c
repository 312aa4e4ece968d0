/* libFuzzer: any bytes as a header. What decodes must encode, and decode again to the same bytes. */
#include "proto/message.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static FILE *null;
    if (!null && !(null = fopen("/dev/null", "w"))) abort();
    message a, b;
    err e;
    if (msg_decode(&a, data, n, &e)) return 0;
    uint8_t one[MSG_HEADER_MAX], two[MSG_HEADER_MAX];
    size_t len1 = sizeof one, len2 = sizeof two;
    if (msg_encode(&a, one, &len1, &e) || msg_decode(&b, one, len1, &e) || msg_encode(&b, two, &len2, &e)) abort();
    if (len1 != len2 || memcmp(one, two, len1)) abort();
    view frames[MSG_FRAMES_MAX];
    for (uint32_t i = 0; i < MSG_FRAMES_MAX; i++) frames[i] = (view){ data, n >> i };
    (void)msg_check_frames(&a, frames, msg_frames(a.type), &e);
    msg_print(&a, null);
    return 0;
}
