#ifndef KVSTORE_PANE_IMPL_H
#define KVSTORE_PANE_IMPL_H
/* The decoders of the ISA files; private to kvstore/pane*.c. */
#include "kvstore/pane.h"

void pane_decode_plain(const pane_codes *c, float *out);
void pane_decode_avx2(const pane_codes *c, float *out);           /* x86-64 only, as the next */
void pane_decode_avx512vnni(const pane_codes *c, float *out);
#endif
