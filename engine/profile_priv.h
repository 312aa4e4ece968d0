#ifndef ENGINE_PROFILE_PRIV_H
#define ENGINE_PROFILE_PRIV_H
/* What the files of a profile share: profile.c (the door), profile_write.c, profile_info.c; nobody else includes this. */
#include "engine/profile.h"

#define PROFILE_FORMAT 1u
#define PROFILE_ARCHITECTURE "sluice-profile"

struct profile {
    gguf *g;
    char *model, *auxiliary, *path;    /* owned, NUL-terminated */
    uint32_t layers;
};

/* "SECTION.NAME" or "SECTION.LAYER.NAME"; false when it is too long or no name. */
bool profile_key(char out[static GGUF_NAME_MAX], profile_section s, uint32_t layer, const char *name);
/* The bytes of tensor i, mapped, when their hash is the file's. ERR_MODEL, ERR_IO. */
err_code profile_checked(const profile *p, uint64_t i, gguf_range *out, err *e);
uint64_t profile_hash_of(const void *data, size_t n);
/* Of which section is this key or tensor? PROFILE_SECTIONS: of none. layer: PROFILE_WHOLE where the name has none. */
profile_section profile_owner(const char *name, uint32_t *layer);
#endif
