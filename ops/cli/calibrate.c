#include "ops/cli/calibrate.h"
#include "ops/cli/calibrate_limits.h"
#include "ops/cli/calibrate_route.h"
#include "ops/cli/calibrate_stand.h"
#include "ops/cli/command.h"
#include "ops/cli/paths.h"
#include "ops/cli/show.h"
#include "ops/cli/signals.h"
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

/* sluice calibrate: which sections, in which order, and when the profile is written: after each section, so that one that is done
 * stays done. What a section measures is in its own file. */

/* NULL: this build has none. */
static calibrate_run *const run_of[PROFILE_SECTIONS] = {
    [PROFILE_KV] = calibrate_kv,
    [PROFILE_PREDICT] = calibrate_predict,
    [PROFILE_ROUTE] = calibrate_route,
    [PROFILE_STAND] = calibrate_stand,
    [PROFILE_LIMITS] = calibrate_limits,
};
/* A text of 64 MB has more tokens than any section needs. */
enum { TEXT_MOST = 64 << 20, WINDOW_MOST = 2048, WINDOW_LEAST = 16 };

/* ---- what a section calls ------------------------------------------------------------------------------------------ */

void *calibrate_block(calibration *c, const char *name, size_t bytes, bool *found)
{
    char full[200];
    snprintf(full, sizeof full, "%s.%.90s", profile_section_name(c->section), name);
    return calibrate_state_block(c->state, full, bytes, found);
}

err_code calibrate_tick(calibration *c, uint64_t done, uint64_t total, err *e)
{
    progress_set(&c->bar, done, total);
    if (!signals_caught()) return calibrate_state_save_sometimes(c->state, e);
    err_code rc = calibrate_state_save(c->state, e);
    return rc ? rc : err_set(e, ERR_CANCELLED, "stopped; the same command goes on from here");
}

static uint32_t text_in_window(const calibration *c) { return c->window - (c->bos != TOKEN_NONE); }

size_t calibrate_windows(const calibration *c) { return c->tokens.n / text_in_window(c); }

void calibrate_fill(const calibration *c, size_t i, uint32_t *ids)
{
    uint32_t n = text_in_window(c);
    if (c->bos != TOKEN_NONE) *ids++ = c->bos;
    memcpy(ids, c->tokens.id + i * n, n * sizeof *ids);
}

err_code calibrate_lab(calibration *c, lab_options o, lab **out, err *e)
{
    o.path = c->path;
    o.threads = (uint32_t)c->s->threads;
    if (!o.n_ctx) o.n_ctx = c->window;
    o.pack = (pack_options){ .on = !c->s->no_pack, .dir = c->s->pack_dir, .max_bytes = c->s->pack_cap << 20 };
    return lab_open(out, c->g, &o, e);
}

/* ---- what is asked ------------------------------------------------------------------------------------------------- */

static err_code parse_only(const char *list, uint32_t *only, err *e)
{
    *only = 0;
    for (const char *at = list; at && *at;) {
        size_t n = strcspn(at, ","), len;
        int s = 0;
        for (; s < PROFILE_SECTIONS; s++) {
            len = strlen(profile_section_name((profile_section)s));
            if (len == n && !memcmp(at, profile_section_name((profile_section)s), n)) break;
        }
        if (s == PROFILE_SECTIONS)
            return err_set(e, ERR_USAGE, "--only \"%.*s\": sections are kv, route, stand, limits and predict", (int)(n < 40 ? n : 40), at);
        if (!run_of[s]) return err_set(e, ERR_USAGE, "--only %s: this build cannot calibrate that section", profile_section_name((profile_section)s));
        *only |= 1u << s;
        at += n + (at[n] == ',');
    }
    for (int s = 0; s < PROFILE_SECTIONS && !list; s++)
        if (run_of[s] && s != PROFILE_PREDICT) *only |= 1u << s;      /* predict wants --aux */
    return *only ? ERR_OK : err_set(e, ERR_USAGE, "--only names no section");
}

static err_code parse_path(calibration *c, err *e)
{
    c->path = PATH_I8B32;
    bool ok = !c->s->arith || (path_named(c->s->arith, &c->path) && c->path != PATH_BF16AMX);
    return ok ? ERR_OK : err_set(e, ERR_USAGE, "--arith \"%.40s\"", c->s->arith);
}

static err_code read_text(calibration *c, text *in, err *e)
{
    err_code rc = c->s->file ? ERR_OK : err_set(e, ERR_USAGE, "-f TEXT is missing: what the model reads meanwhile");
    if (rc == ERR_OK) rc = text_read_file(in, c->s->file, TEXT_MOST, e);
    c->text = (view){ in->ptr, in->len };
    if (rc == ERR_OK) rc = tokenizer_encode(c->tok, c->text, false, false, &c->tokens, e);
    if (rc == ERR_OK && c->s->sample && c->tokens.n > c->s->sample) c->tokens.n = c->s->sample;
    if (rc == ERR_OK && !calibrate_windows(c))
        rc = err_set(e, ERR_INPUT, "%s: %zu tokens, and a window has %u (-c makes it smaller)", c->s->file, c->tokens.n, c->window);
    return rc;
}

static err_code choose_window(calibration *c, err *e)
{
    uint64_t most = c->shape.n_ctx, want = c->s->cal_window ? c->s->cal_window : most < WINDOW_MOST ? most : WINDOW_MOST;
    if (want < WINDOW_LEAST || want > most)
        return err_set(e, ERR_INPUT, "-c %llu: a window has %d tokens at least, and at most the model's context (%llu)",
                       (unsigned long long)want, WINDOW_LEAST, (unsigned long long)most);
    c->window = (uint32_t)want;
    return ERR_OK;
}

static err_code open_model(calibration *c, text *in, err *e)
{
    err_code rc = gguf_open(&c->g, c->s->model, e);
    if (rc == ERR_OK) rc = model_shape_read(&c->shape, c->g, e);
    if (rc == ERR_OK) rc = tokenizer_open(&c->tok, c->g, e);
    if (rc == ERR_OK) c->bos = tokenizer_adds_bos(c->tok) ? tokenizer_bos(c->tok) : TOKEN_NONE;
    if (rc == ERR_OK) rc = choose_window(c, e);
    return rc == ERR_OK ? read_text(c, in, e) : rc;
}

/* Everything that a block may depend on; another build may add up other things. */
static err_code open_state(calibration *c, const char *out, uint32_t only, err *e)
{
    text file = { 0 }, key = { 0 };
    XXH128_hash_t h = XXH3_128bits(c->tokens.id, c->tokens.n * sizeof *c->tokens.id);
    bool ok = text_addf(&file, "%s.partial", out) &&
              text_addf(&key, "%s %s %s %016llx%016llx window %u only %u aux %s", version_revision(), gguf_digest(c->g), path_name(c->path),
                        (unsigned long long)h.high64, (unsigned long long)h.low64, c->window, only, c->s->aux ? c->s->aux : "");
    for (int s = 0; ok && s < PROFILE_SECTIONS; s++) ok = text_addf(&key, " %u", profile_section_version((profile_section)s));
    err_code rc = ok ? calibrate_state_open(&c->state, file.ptr, key.ptr, e) : err_set(e, ERR_NOMEM, "out of memory");
    text_free(&file);
    text_free(&key);
    return rc;
}

/* ---- sections ------------------------------------------------------------------------------------------------------ */

typedef struct { uint8_t done; } mark;   /* this section is in the profile */

static bool is_done(calibration *c, const char *out, mark **m)
{
    bool found;
    profile *p = NULL;
    *m = calibrate_block(c, "done", sizeof **m, &found);
    bool there = *m && (*m)->done && profile_open(&p, out, &(profile_binding){ .model = gguf_digest(c->g), .path = path_name(c->path) }, NULL) == ERR_OK &&
                 profile_has(p, c->section);
    profile_close(&p);
    return there;
}

/* The binding of predict is known only when it has run, so the writer is opened with what is known and the rest is added. */
static err_code make_section(calibration *c, const char *out, json_t *all, err *e)
{
    const char *name = profile_section_name(c->section);
    mark *m;
    json_t *summary = json_object();
    if (is_done(c, out, &m)) {
        json_object_set_new(summary, "resumed", json_true());
        json_object_set_new(all, name, summary);
        return ERR_OK;
    }
    profile_binding bound = { gguf_digest(c->g), c->auxiliary, path_name(c->path) };
    c->bar = progress_open(name);
    err_code rc = m && summary ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = profile_writer_open(&c->out, out, &bound, c->shape.L, 1u << c->section, e);
    if (rc == ERR_OK) profile_put_number(c->out, c->section, "tokens", (double)c->tokens.n);
    if (rc == ERR_OK) profile_put_number(c->out, c->section, "window", c->window);
    if (rc == ERR_OK) rc = run_of[c->section](c, summary, e);
    progress_close(&c->bar);
    if (rc == ERR_OK && c->auxiliary) rc = profile_writer_auxiliary(c->out, c->auxiliary, e);
    if (rc == ERR_OK) rc = profile_writer_commit(c->out, e);
    profile_writer_close(&c->out);
    if (rc == ERR_OK) m->done = 1;
    json_object_set_new(all, name, summary);
    return rc == ERR_OK ? calibrate_state_save(c->state, e) : rc;
}

static err_code report(const calibration *c, const char *out, json_t *sections, err *e)
{
    profile *p = NULL;
    err_code rc = profile_open(&p, out, NULL, e);
    if (rc == ERR_OK && c->s->json)
        rc = show_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:O}", "schema", "sluice.calibrate/1", "file", out, "digest",
                                 profile_digest(p), "model", gguf_digest(c->g), "path", path_name(c->path), "tokens",
                                 (json_int_t)c->tokens.n, "window", (json_int_t)c->window, "sections", sections), e);
    else if (rc == ERR_OK) rc = profile_print(p, false, stdout, e);
    if (rc == ERR_OK) rc = show_write("", 0, e);
    profile_close(&p);
    return rc;
}

static err_code run_sections(calibration *c, const char *out, uint32_t only, err *e)
{
    json_t *sections = json_object();
    err_code rc = sections ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
    for (int s = 0; rc == ERR_OK && s < PROFILE_SECTIONS; s++) {
        if (!(only >> s & 1)) continue;
        c->section = (profile_section)s;
        rc = make_section(c, out, sections, e);
        if (rc != ERR_OK) err_wrap(e, "section %s", profile_section_name(c->section));
    }
    if (rc == ERR_OK) calibrate_state_remove(c->state);
    if (rc == ERR_OK) rc = report(c, out, sections, e);
    json_decref(sections);
    return rc;
}

err_code cmd_calibrate(settings *s, err *e)
{
    calibration c = { .s = s };
    text in = { 0 }, out = { 0 };
    uint32_t only;
    if (s->args.n) return err_set(e, ERR_USAGE, "what is \"%.100s\"?", s->args.at[0]);
    err_code rc = parse_only(s->only, &only, e);
    if (rc == ERR_OK) rc = parse_path(&c, e);
    if (rc == ERR_OK && !s->model) rc = path_default_model(s, e);
    if (rc == ERR_OK && !(s->out ? text_adds(&out, s->out) : profile_beside(s->model, &out))) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = open_model(&c, &in, e);
    if (rc == ERR_OK) rc = open_state(&c, out.ptr, only, e);
    if (rc == ERR_OK && calibrate_state_found(c.state)) fprintf(stderr, "sluice calibrate: going on from %s.partial\n", out.ptr);
    if (rc == ERR_OK) rc = run_sections(&c, out.ptr, only, e);
    calibrate_state_close(&c.state);
    token_list_free(&c.tokens);
    tokenizer_close(&c.tok);
    gguf_close(&c.g);
    text_free(&in);
    text_free(&out);
    return rc;
}
