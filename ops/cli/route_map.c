#include "ops/cli/route_map.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { CELL = 18, LABEL = 420, TOP = 28 };   /* pixels */

void route_map_add(route_map *m, uint32_t L, view mask)
{
    layer_mask x;
    err quiet;
    m->n++;
    if (!mask.len || mask_parse(&x, L, mask.ptr, mask.len, &quiet)) return;
    for (uint32_t l = 0; l < x.n; l++) m->off[l] += x.at[l].attn != MASK_NEVER || x.at[l].ffn != MASK_NEVER;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void words(FILE *f, const char *s)
{
    for (; *s; s++)
        if (*s == '<' || *s == '>' || *s == '&') fprintf(f, "&#%d;", *s);
        else fputc(*s, f);
}

static void row(FILE *f, uint32_t L, const route_row *r, uint32_t y)
{
    fprintf(f, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\">", LABEL - 6, y + CELL - 5);
    words(f, r->rule);
    fprintf(f, " &#183; ");
    words(f, base_name(r->task));
    fprintf(f, "</text>\n");
    for (uint32_t l = 0; l < L; l++) {
        double share = (double)r->map->off[l] / r->map->n;
        fprintf(f, "<rect x=\"%u\" y=\"%u\" width=\"%d\" height=\"%d\" fill=\"#17406d\" fill-opacity=\"%.3f\" stroke=\"#ccc\"><title>layer %u: %u of %u</title></rect>\n",
                LABEL + l * CELL, y, CELL, CELL, share, l, r->map->off[l], r->map->n);
    }
}

err_code route_map_write(const char *path, uint32_t L, const route_row *rows, uint32_t n, err *e)
{
    FILE *f = fopen(path, "we");
    if (!f) return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            LABEL + L * CELL + 10, TOP + n * CELL + 10);
    for (uint32_t l = 0; l < L; l++) fprintf(f, "<text x=\"%u\" y=\"%d\" text-anchor=\"middle\">%u</text>\n", LABEL + l * CELL + CELL / 2, TOP - 8, l);
    for (uint32_t i = 0; i < n; i++) row(f, L, &rows[i], TOP + i * CELL);
    fprintf(f, "</svg>\n");
    bool bad = ferror(f);
    return fclose(f) || bad ? err_set(e, ERR_IO, "%s: %s", path, strerror(errno)) : ERR_OK;
}
