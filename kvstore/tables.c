#include "kvstore/tables.h"
#include "kvstore/policy.h"

static bool has_books(const kv_tables *t, kv_pack p, bool key)
{
    if (p.kind != KV_PACK_NUQ) return true;
    return t && (key ? t->k_lo && t->k_hi && t->lut_k[p.bits] : t->lut_v[p.bits] != NULL);
}

const char *kv_tables_lack(const kv_tables *t, uint32_t first, uint32_t last, const kv_policy *p)
{
    if (t && (t->first > first || t->last < last)) t = NULL;
    const struct { bool ok; const char *what; } needs[] = {
        { has_books(t, p->k, true) && has_books(t, p->k2, true), "key thresholds and codebooks" },
        { has_books(t, p->v, false) && has_books(t, p->v2, false), "value codebooks" },
        { p->roles != KV_ROLES_RAZOR || (t && t->local), "head roles" },
        { p->roles != KV_ROLES_ALPHA || (t && t->alpha), "role scores" },
        { p->score != KV_SCORE_SEMANTIC || (t && t->semantic), "semantic heads" },
        { p->budget != KV_BUDGET_LAYER_ERROR || (t && t->layer_error), "layer errors" },
    };
    for (size_t i = 0; i < sizeof needs / sizeof *needs; i++)
        if (!needs[i].ok) return needs[i].what;
    return NULL;
}
