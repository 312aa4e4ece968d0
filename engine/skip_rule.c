#include "engine/skip_rule.h"
#include <dirent.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const kinds[SKIP_KINDS] = {
#define X(N, n) n,
    SKIP_KIND_MAP(X)
#undef X
};

enum { WARM_TOKENS = 4 };         /* ffn-skip: the paper lets some run all layers and gives no number */

/* ---- settings ------------------------------------------------------------------------------------------------------ */

#define BIT(k) (1u << SKIP_##k)
#define COUNTED (BIT(RANDOM) | BIT(UNIFIED) | BIT(FIXED) | BIT(ADASKIP) | BIT(FIRST) | BIT(DUO))
enum { KEY_COUNT, KEY_REAL, KEY_SEED, KEY_WHAT, KEY_ROWS, KEY_ORDER, KEY_ROUTERS, KEY_SCALE, KEY_PATCH, KEY_BACK };
static const struct { const char *name; int type; size_t at; double lo, hi; uint32_t of; } keys[] = {
    { "layers", KEY_COUNT, offsetof(skip_rule, layers), 0, MASK_LAYERS, COUNTED },
    { "share", KEY_REAL, offsetof(skip_rule, share), 0, 0.95, COUNTED | BIT(FFN_SKIP) | BIT(EXIT) },
    { "what", KEY_WHAT, offsetof(skip_rule, what), 0, 0, BIT(RANDOM) | BIT(UNIFIED) | BIT(SKIPDECODE) | BIT(FIXED) | BIT(FIRST) },
    { "rows", KEY_ROWS, offsetof(skip_rule, decode), 0, 0, BIT(LIST) | BIT(RANDOM) | BIT(UNIFIED) | BIT(FIXED) | BIT(ADASKIP) },
    { "seed", KEY_SEED, offsetof(skip_rule, seed), 0, 0, BIT(RANDOM) },
    { "speed", KEY_REAL, offsetof(skip_rule, speed), 1, 10, BIT(FIXED) | BIT(FIRST) },
    { "damage", KEY_REAL, offsetof(skip_rule, damage), 0, 100, BIT(FIXED) | BIT(FIRST) },
    { "mean", KEY_REAL, offsetof(skip_rule, mean), 0, 0.4, BIT(FIRST) },
    { "rho", KEY_REAL, offsetof(skip_rule, rho), 0, 1, BIT(FIRST) },
    { "routers", KEY_ROUTERS, offsetof(skip_rule, trained), 0, 0, BIT(FIRST) },
    { "scale", KEY_SCALE, offsetof(skip_rule, bare), 0, 0, BIT(ADASKIP) },
    { "patch", KEY_PATCH, offsetof(skip_rule, patch), 0, 0, BIT(FFN_SKIP) },
    { "max", KEY_COUNT, offsetof(skip_rule, most), 1, MASK_LAYERS, BIT(SKIPDECODE) },
    { "min", KEY_COUNT, offsetof(skip_rule, least), 1, MASK_LAYERS, BIT(SKIPDECODE) },
    { "warm", KEY_COUNT, offsetof(skip_rule, warm), 0, MASK_LAYERS, BIT(SKIPDECODE) | BIT(FFN_SKIP) },
    { "theta", KEY_REAL, offsetof(skip_rule, theta), 0, 1, BIT(FFN_SKIP) },
    { "q", KEY_REAL, offsetof(skip_rule, q), 0.001, 1, BIT(EXIT) },
    { "cold", KEY_COUNT, offsetof(skip_rule, cold), 0, MASK_LAYERS, BIT(FFN_SKIP) },
    { "last", KEY_COUNT, offsetof(skip_rule, last), 0, MASK_LAYERS, BIT(FFN_SKIP) },
    { "next", KEY_COUNT, offsetof(skip_rule, next), 0, MASK_LAYERS, BIT(FFN_SKIP) },
    { "over", KEY_COUNT, offsetof(skip_rule, over), 1, 1 << 24, BIT(SKIPDECODE) },
    { "back", KEY_BACK, offsetof(skip_rule, back), 0, 0, ~BIT(NONE) },
    { "alarm", KEY_REAL, offsetof(skip_rule, alarm), -100, 1000, ~BIT(NONE) },
    { "order", KEY_ORDER, offsetof(skip_rule, ordered), 0, 0, BIT(SKIPDECODE) },
};
static const char *const whats[] = { [SKIP_ATTN] = "attn", [SKIP_FFN] = "ffn", [SKIP_BOTH] = "both" };

static err_code bad(const char *rule, const char *what, const char *value, err *e)
{
    return err_set(e, ERR_CONFIG, "--skip %.100s: %s \"%.60s\"", rule, what, value);
}

static err_code take_number(skip_rule *r, size_t k, const char *rule, const char *value, err *e)
{
    char *end;
    double x = strtod(value, &end);
    void *to = (char *)r + keys[k].at;
    if (*end || end == value || !isfinite(x) || (keys[k].type != KEY_SEED && (x < keys[k].lo || x > keys[k].hi)))
        return err_set(e, ERR_CONFIG, "--skip %.100s: %s wants %g to %g, not \"%.40s\"", rule, keys[k].name, keys[k].lo, keys[k].hi, value);
    if (keys[k].type == KEY_REAL) *(double *)to = x;
    else if (keys[k].type == KEY_SEED) *(uint64_t *)to = strtoull(value, NULL, 10);
    else if (x != floor(x)) return bad(rule, "not a whole number:", value, e);
    else *(uint32_t *)to = (uint32_t)x;
    return ERR_OK;
}

static err_code take_back(skip_rule *r, const char *rule, const char *value, err *e)
{
    for (uint32_t k = 0; k < ALARM_KINDS; k++)
        if (!strcmp(value, alarm_name((alarm_kind)k))) return r->back = k + 1, ERR_OK;
    if (!strcmp(value, "off")) return r->back = 0, ERR_OK;
    return bad(rule, "back is off, entropy, margin, csd or loop, not", value, e);
}

static err_code take_word(skip_rule *r, size_t k, const char *rule, const char *value, err *e)
{
    void *to = (char *)r + keys[k].at;
    if (keys[k].type == KEY_BACK) return take_back(r, rule, value, e);
    if (keys[k].type == KEY_WHAT) {
        for (uint32_t i = SKIP_ATTN; i <= SKIP_BOTH; i++)
            if (!strcmp(value, whats[i])) return *(uint32_t *)to = i, ERR_OK;
        return bad(rule, "what is attn, ffn or both, not", value, e);
    }
    static const char *const words[][2] = { [KEY_ROWS] = { "all", "decode" }, [KEY_ORDER] = { "paper", "learned" }, [KEY_ROUTERS] = { "fitted", "trained" },
                                            [KEY_SCALE] = { "on", "off" }, [KEY_PATCH] = { "off", "on" } };
    const char *no = words[keys[k].type][0], *yes = words[keys[k].type][1];
    if (strcmp(value, yes) && strcmp(value, no)) return err_set(e, ERR_CONFIG, "--skip %.100s: %s is %s or %s, not \"%.40s\"", rule, keys[k].name, no, yes, value);
    *(bool *)to = !strcmp(value, yes);
    return ERR_OK;
}

static err_code take_key(skip_rule *r, const char *rule, char *word, err *e)
{
    char *value = strchr(word, '=');
    *value++ = 0;
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        if (strcmp(word, keys[k].name)) continue;
        if (!(keys[k].of >> r->kind & 1)) return err_set(e, ERR_CONFIG, "--skip %.100s: %s has no setting %s", rule, kinds[r->kind], word);
        return keys[k].type <= KEY_SEED ? take_number(r, k, rule, value, e) : take_word(r, k, rule, value, e);
    }
    return bad(rule, "no such setting:", word, e);
}

/* A bare word: a layer of a list, or the number of layers. */
static err_code take_bare(skip_rule *r, const char *rule, const char *word, err *e)
{
    char *end;
    unsigned long l = strtoul(word, &end, 10);
    uint8_t what = *end == 'a' ? SKIP_ATTN : *end == 'f' ? SKIP_FFN : SKIP_BOTH;
    end += what != SKIP_BOTH;
    if (*word < '0' || *word > '9' || *end || l >= MASK_LAYERS) return bad(rule, "no number of layers, layer, or setting:", word, e);
    if (r->kind == SKIP_LIST) return r->list[l] |= what, ERR_OK;
    if (!(COUNTED >> r->kind & 1) || what != SKIP_BOTH) return bad(rule, "a number means nothing here:", word, e);
    r->layers = (uint32_t)l;
    return ERR_OK;
}

static err_code find_kind(skip_rule *r, const char *rule, const char *name, err *e)
{
    char all[256] = "";
    size_t n = 0;
    for (int k = 0; k < SKIP_KINDS; k++) {
        if (!strcmp(name, kinds[k])) return r->kind = (skip_kind)k, ERR_OK;
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", k ? ", " : "", kinds[k]);
    }
    return err_set(e, ERR_CONFIG, "--skip %.100s: no policy \"%.40s\" (%s)", rule, name, all);
}

static err_code check(const skip_rule *r, const char *rule, err *e)
{
    int ways = (r->layers > 0) + (r->share > 0) + (r->speed > 0) + (r->damage > 0) + (r->rho > 0) + (r->mean > 0);
    if (COUNTED >> r->kind & 1 && ways != 1)
        return err_set(e, ERR_CONFIG, "--skip %.100s: %s? (%s:4, or share=0.25%s)", rule, ways ? "which of these budgets" : "how many layers", kinds[r->kind],
                       (BIT(FIXED) | BIT(FIRST)) >> r->kind & 1 ? ", speed=1.25, damage=0.02" : "");
    if (r->kind == SKIP_FFN_SKIP && (r->theta > 0) + (r->share > 0) != 1)
        return err_set(e, ERR_CONFIG, "--skip %.100s: theta=0.97, or share=0.25 of the FFNs by the profile", rule);
    if (r->share > 0 && r->kind == SKIP_FFN_SKIP && r->next > 1)
        return err_set(e, ERR_CONFIG, "--skip %.100s: shares are measured for next=1 and next=0 (all behind a calm one); theta=0.997 says it for others", rule);
    if (r->trained ? r->damage > 0 : r->rho > 0)
        return err_set(e, ERR_CONFIG, "--skip %.100s: %s", rule, r->trained ? "trained routers know no damage" : "rho is what trained routers say (routers=trained)");
    if (r->kind == SKIP_SKIPDECODE && r->most && r->least > r->most)
        return err_set(e, ERR_CONFIG, "--skip %.100s: min=%u is above max=%u", rule, r->least, r->most);
    return ERR_OK;
}

/* Scores from which on a session turns back, when its rule says none: docs/routing.md, "Back-off". */
static const double limits[ALARM_KINDS] = { [ALARM_ENTROPY] = 5.7, [ALARM_MARGIN] = -0.25, [ALARM_CSD] = 0.5, [ALARM_LOOP] = SKIP_LOOP };

err_code skip_rule_parse(skip_rule *out, const char *s, err *e)
{
    char copy[SKIP_TEXT + 1];
    *out = (skip_rule){ .what = SKIP_BOTH, .warm = 1, .q = 0.5, .cold = SKIP_BY_MODEL, .last = SKIP_BY_MODEL };
    if (strlen(s) > SKIP_TEXT) return err_set(e, ERR_CONFIG, "--skip %.60s...: longer than %u bytes", s, SKIP_TEXT);
    memcpy(copy, s, strlen(s) + 1);
    char *rest = strchr(copy, ':'), *save = NULL;
    if (rest) *rest++ = 0;
    err_code rc = find_kind(out, s, copy, e);
    if (out->kind == SKIP_FFN_SKIP) out->warm = WARM_TOKENS, out->next = 1;
    out->decode = out->kind == SKIP_FIXED || out->kind == SKIP_FIRST; /* whose damage was measured so */
    for (char *word = rest ? strtok_r(rest, ",", &save) : NULL; !rc && word; word = strtok_r(NULL, ",", &save))
        rc = strchr(word, '=') ? take_key(out, s, word, e) : take_bare(out, s, word, e);
    if (out->back && !out->alarm) out->alarm = limits[out->back - 1];
    return rc ? rc : check(out, s, e);
}

/* ---- presets ------------------------------------------------------------------------------------------------------- */

/* Seen from a program: in the tree it is in build/MODE (a test below tests/unit there), installed in PREFIX/bin. */
static const char *const places[] = { "../../configs/route", "../share/sluice/configs/route", "../../../../configs/route" };
enum { PLACES = sizeof places / sizeof *places, FILE_MOST = 1 << 16 };

static bool is_file(const char *name)
{
    size_t n = strlen(name);
    return strchr(name, '/') || (n > 4 && !strcmp(name + n - 4, ".ini"));
}

static void trim(char **at)
{
    while (**at == ' ' || **at == '\t') (*at)++;
    for (size_t n = strlen(*at); n && strchr(" \t\r", (*at)[n - 1]);) (*at)[--n] = 0;
}

/* "key = value" lines become "policy:key=value,...". */
static err_code take_lines(char *text_of_file, const char *path, char out[static SKIP_TEXT + 1], err *e)
{
    char policy[64] = "", rest[SKIP_TEXT + 1] = "", *save = NULL;
    size_t n = 0;
    for (char *line = strtok_r(text_of_file, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        trim(&line);
        char *value = strchr(line, '=');
        if (!*line || *line == '#' || *line == ';' || *line == '[') continue;
        if (!value) return err_set(e, ERR_CONFIG, "%s: \"%.60s\" is no setting", path, line);
        *value++ = 0;
        trim(&line);
        trim(&value);
        if (!strcmp(line, "policy")) snprintf(policy, sizeof policy, "%s", value);
        else n += (size_t)snprintf(rest + n, sizeof rest - n, "%s%s%s%s", n ? "," : "", strcmp(line, "list") ? line : "", strcmp(line, "list") ? "=" : "", value);
        if (n >= sizeof rest) return err_set(e, ERR_CONFIG, "%s: longer than a rule may be", path);
    }
    if (!policy[0]) return err_set(e, ERR_CONFIG, "%s: no line \"policy = NAME\"", path);
    if (snprintf(out, SKIP_TEXT + 1, "%s%s%s", policy, n ? ":" : "", rest) > (int)SKIP_TEXT) return err_set(e, ERR_CONFIG, "%s: longer than a rule may be", path);
    return ERR_OK;
}

static err_code read_preset(const char *path, char out[static SKIP_TEXT + 1], err *e)
{
    text t = { 0 };
    err_code rc = text_read_file(&t, path, FILE_MOST, e);
    if (!rc) rc = take_lines(t.ptr ? t.ptr : (char[1]){ 0 }, path, out, e);
    text_free(&t);
    return rc;
}

static bool find_preset(const char *name, char *path, size_t cap)
{
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return false;
    self[n] = 0;
    *strrchr(self, '/') = 0;
    for (int i = 0; i < PLACES; i++) {
        snprintf(path, cap, "%s/%s/%.100s.ini", self, places[i], name);
        if (!access(path, R_OK)) return true;
    }
    return false;
}

err_code skip_rule_load(char out[static SKIP_TEXT + 1], const char *name, err *e)
{
    char path[4400];
    skip_rule r;
    err_code rc = ERR_OK;
    if (is_file(name)) rc = read_preset(name, out, e);
    else if (!strchr(name, ':') && strlen(name) < 100 && find_preset(name, path, sizeof path)) rc = read_preset(path, out, e);
    else if (snprintf(out, SKIP_TEXT + 1, "%s", name) > (int)SKIP_TEXT)
        rc = err_set(e, ERR_CONFIG, "--skip %.60s...: longer than %u bytes", name, SKIP_TEXT);
    return rc ? rc : skip_rule_parse(&r, out, e);
}
