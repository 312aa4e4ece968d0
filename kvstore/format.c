#include "kvstore/format.h"
#include <string.h>

static const struct { const char *name; size_t elem; } formats[KV_FORMAT_COUNT] = {
    [KV_F16] = { "f16", 2 },
    [KV_F32] = { "f32", 4 },
};

const char *kv_format_name(kv_format f)
{
    return (unsigned)f < KV_FORMAT_COUNT ? formats[f].name : "unknown";
}

err_code kv_format_parse(const char *s, kv_format *out, err *e)
{
    for (unsigned i = 0; i < KV_FORMAT_COUNT; i++) {
        if (strcmp(s, formats[i].name)) continue;
        *out = (kv_format)i;
        return ERR_OK;
    }
    return err_set(e, ERR_CONFIG, "KV format \"%s\": must be f16 or f32", s);
}

kv_layout kv_layout_of(uint32_t K, uint32_t d, kv_format f)
{
    kv_layout l = { .K = K, .d = d, .elem = formats[f].elem };
    l.row = d * l.elem;
    l.head = KV_PAGE_ROWS * l.row;
    l.side = K * l.head;
    l.page = (KV_SIDES * l.side + 63) / 64 * 64;
    return l;
}
