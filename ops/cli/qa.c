#include "ops/cli/qa.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Owns what counts as a right answer. It asks nobody. */

static view trimmed(view v)
{
    static const char blank[] = " \t\r\n\v\f";
    const char *p = v.ptr;
    while (v.len && p[0] && strchr(blank, p[0])) p++, v.len--;
    while (v.len && p[v.len - 1] && strchr(blank, p[v.len - 1])) v.len--;
    return (view){ p, v.len };
}

view qa_answer(view generated)
{
    const char *nl = generated.len ? memchr(generated.ptr, '\n', generated.len) : NULL;
    if (nl) generated.len = (size_t)(nl - (const char *)generated.ptr);
    return trimmed(generated);
}

static view core_of(view v)
{
    v = trimmed(v);
    if (v.len && ((const char *)v.ptr)[v.len - 1] == '.') v = trimmed((view){ v.ptr, v.len - 1 });
    return v;
}

/* Case-folded and composed; NULL when the bytes are no UTF-8. */
static uint8_t *folded(view v)
{
    uint8_t *out = NULL;
    utf8proc_map(v.ptr, (utf8proc_ssize_t)v.len, &out, UTF8PROC_CASEFOLD | UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    return out;
}

bool qa_same(view a, view b)
{
    a = core_of(a);
    b = core_of(b);
    if (!a.len || !b.len) return a.len == b.len;
    uint8_t *fa = folded(a), *fb = folded(b);
    bool same = fa && fb ? !strcmp((char *)fa, (char *)fb) : a.len == b.len && !memcmp(a.ptr, b.ptr, a.len);
    free(fa);
    free(fb);
    return same;
}

void question_free(question *q)
{
    free(q->id);
    free(q->answer);
    text_free(&q->prompt);
    *q = (question){ 0 };
}

static const char *words(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

static err_code take_object(question *q, const json_t *o, bool rag, err *e)
{
    const char *prompt = words(o, "prompt"), *ask = words(o, "question"), *answer = words(o, "answer"), *id = words(o, "id");
    if (!answer) return err_set(e, ERR_INPUT, "\"answer\" is missing");
    if (!prompt && !ask) return err_set(e, ERR_INPUT, "neither \"prompt\" nor \"question\" is there");
    q->retrieve = rag && ask;
    bool ok = q->retrieve ? text_adds(&q->prompt, ask)
              : prompt    ? text_adds(&q->prompt, prompt)
                          : text_addf(&q->prompt, "Question: %s\nAnswer:", ask);
    q->id = strdup(id ? id : "");
    q->answer = strdup(answer);
    return ok && q->id && q->answer ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory");
}

err_code question_read(question *q, view line, bool rag, err *e)
{
    json_error_t je;
    json_t *o = json_loadb(line.ptr, line.len, 0, &je);
    if (!o) return err_set(e, ERR_INPUT, "not JSON: %s", je.text);
    err_code rc = take_object(q, o, rag, e);
    json_decref(o);
    return rc;
}
