#ifndef CLI_ROUTE_MAP_H
#define CLI_ROUTE_MAP_H
/* Which layers masks leave out, counted over jobs and drawn: a row for each rule and task, a column for each layer. Knows no clusters. */
#include "core/mask.h"

typedef struct { uint32_t n, off[MASK_LAYERS]; } route_map;   /* jobs, and of them those that leave out something of the layer */
typedef struct { const char *rule, *task; const route_map *map; } route_row;

/* One job's mask, as DONE says it; what cannot be read counts as none. */
void route_map_add(route_map *m, uint32_t L, view mask);
/* An SVG, the darker the oftener. ERR_IO. */
err_code route_map_write(const char *path, uint32_t L, const route_row *rows, uint32_t n, err *e);
#endif
