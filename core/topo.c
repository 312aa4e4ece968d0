/* Cores and memory of this process, by hwloc. Refuses to choose anything outside the cpuset the process was given. */
#include "core/topo.h"
#include <errno.h>
#include <hwloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct topo {
    hwloc_topology_t hw;
    hwloc_cpuset_t set;      /* the choice */
    bool bound;              /* false for "none" */
    uint32_t cores, given;
    char list[256];
};

static err_code load(topo *t, err *e)
{
    if (hwloc_topology_init(&t->hw)) return err_set(e, ERR_NOMEM, "hwloc: cannot make a topology");
    hwloc_topology_set_flags(t->hw, HWLOC_TOPOLOGY_FLAG_RESTRICT_TO_CPUBINDING);
    if (hwloc_topology_load(t->hw)) return err_set(e, ERR_IO, "hwloc: cannot read this machine's topology: %s", strerror(errno));
    t->set = hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(t->hw));
    hwloc_cpuset_t mine = hwloc_bitmap_alloc();
    if (mine && !hwloc_get_cpubind(t->hw, mine, HWLOC_CPUBIND_PROCESS) && !hwloc_bitmap_iszero(mine)) hwloc_bitmap_and(t->set, t->set, mine);
    hwloc_bitmap_free(mine);
    int given = hwloc_bitmap_weight(t->set);
    t->given = given > 0 ? (uint32_t)given : 1;
    return ERR_OK;
}

/* ---- auto: equal shares of the cores ------------------------------------------------------------------------------ */

static void share(topo *t, uint32_t part, uint32_t parts)
{
    int n = hwloc_get_nbobjs_inside_cpuset_by_type(t->hw, t->set, HWLOC_OBJ_CORE);
    if (n <= 0 || parts < 2) return;
    uint32_t cores = (uint32_t)n, lo = part % cores, hi = lo + 1;
    if (cores >= parts) lo = cores * part / parts, hi = cores * (part + 1) / parts;
    hwloc_cpuset_t out = hwloc_bitmap_alloc();
    for (uint32_t i = lo; i < hi; i++)
        hwloc_bitmap_or(out, out, hwloc_get_obj_inside_cpuset_by_type(t->hw, t->set, HWLOC_OBJ_CORE, i)->cpuset);
    hwloc_bitmap_and(t->set, t->set, out);
    hwloc_bitmap_free(out);
}

/* ---- locations: type:range[.type:range], or a mask ---------------------------------------------------------------- */

/* One "type:range" inside `within`; the objects' cpusets are or-ed into *out. */
static bool add_level(topo *t, const char *word, hwloc_cpuset_t within, hwloc_cpuset_t out)
{
    char type[32];
    unsigned lo, hi;
    int used = 0;
    if (sscanf(word, "%31[a-zA-Z0-9]:%u%n", type, &lo, &used) < 2) return false;
    hi = lo;
    if (word[used] == '-') {
        int more = 0;
        if (sscanf(word + used, "-%u%n", &hi, &more) < 1) return false;
        used += more;
    }
    hwloc_obj_type_t ty;
    if (word[used] || hi < lo || hi - lo > 4096 || hwloc_type_sscanf(type, &ty, NULL, 0)) return false;
    for (unsigned i = lo; i <= hi; i++) {
        hwloc_obj_t o = hwloc_get_obj_inside_cpuset_by_type(t->hw, within, ty, i);
        if (!o) return false;
        hwloc_bitmap_or(out, out, o->cpuset);
    }
    return true;
}

static bool add_location(topo *t, char *word, hwloc_cpuset_t out)
{
    hwloc_cpuset_t within = hwloc_bitmap_dup(hwloc_topology_get_topology_cpuset(t->hw)), next = hwloc_bitmap_alloc();
    bool ok = within && next;
    if (ok && !strncmp(word, "0x", 2)) {
        ok = !hwloc_bitmap_sscanf(within, word);
    } else {
        char *save = NULL;
        for (char *w = strtok_r(word, ".", &save); ok && w; w = strtok_r(NULL, ".", &save)) {
            hwloc_bitmap_zero(next);
            ok = add_level(t, w, within, next);
            hwloc_bitmap_copy(within, next);
        }
    }
    if (ok) hwloc_bitmap_or(out, out, within);
    hwloc_bitmap_free(within);
    hwloc_bitmap_free(next);
    return ok;
}

static err_code pick(topo *t, const char *where, err *e)
{
    char copy[256], *save = NULL;
    snprintf(copy, sizeof copy, "%s", where);
    hwloc_cpuset_t out = hwloc_bitmap_alloc();
    bool ok = out != NULL && strlen(where) < sizeof copy;
    for (char *w = strtok_r(copy, " ,", &save); ok && w; w = strtok_r(NULL, " ,", &save)) ok = add_location(t, w, out);
    if (ok) hwloc_bitmap_and(out, out, t->set);
    if (!ok || hwloc_bitmap_iszero(out)) {
        hwloc_bitmap_free(out);
        char *have = NULL;
        hwloc_bitmap_list_asprintf(&have, t->set);
        err_set(e, ERR_CONFIG, "binding \"%s\": no such place among the cpus this process may use (%s)", where, have ? have : "?");
        free(have);
        return ERR_CONFIG;
    }
    hwloc_bitmap_copy(t->set, out);
    hwloc_bitmap_free(out);
    return ERR_OK;
}

err_code topo_open(topo **out, const char *where, uint32_t part, uint32_t parts, err *e)
{
    *out = NULL;
    topo *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NOMEM, "out of memory");
    err_code rc = load(t, e);
    t->bound = !where || strcmp(where, "none");
    if (!rc && (!where || !strcmp(where, "auto"))) share(t, part, parts);
    else if (!rc && t->bound) rc = pick(t, where, e);
    if (rc) {
        topo_close(&t);
        return rc;
    }
    int n = hwloc_get_nbobjs_inside_cpuset_by_type(t->hw, t->set, HWLOC_OBJ_CORE);
    t->cores = n > 0 ? (uint32_t)n : (uint32_t)(hwloc_bitmap_weight(t->set) > 0 ? hwloc_bitmap_weight(t->set) : 1);
    hwloc_bitmap_list_snprintf(t->list, sizeof t->list, t->set);
    *out = t;
    return ERR_OK;
}

void topo_close(topo **tp)
{
    topo *t = *tp;
    if (!t) return;
    hwloc_bitmap_free(t->set);
    if (t->hw) hwloc_topology_destroy(t->hw);
    free(t);
    *tp = NULL;
}

uint32_t topo_cores(const topo *t) { return t->cores; }
uint32_t topo_given(const topo *t) { return t->given; }
const char *topo_cpulist(const topo *t) { return t->list; }

err_code topo_bind(const topo *t, err *e)
{
    if (!t->bound) return ERR_OK;
    if (hwloc_set_cpubind(t->hw, t->set, HWLOC_CPUBIND_PROCESS))
        return err_set(e, ERR_IO, "cannot bind to cpus %s: %s", t->list, strerror(errno));
    /* memory: best effort, hosts without NUMA (or containers without the right) refuse it and lose nothing */
    hwloc_set_membind(t->hw, t->set, HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_PROCESS);
    return ERR_OK;
}

void topo_bind_thread(void *arg, uint32_t tid)
{
    topo *t = arg;
    if (!t || !t->bound) return;
    hwloc_obj_t core = hwloc_get_obj_inside_cpuset_by_type(t->hw, t->set, HWLOC_OBJ_CORE, tid % t->cores);
    if (!core) return;
    hwloc_cpuset_t one = hwloc_bitmap_dup(core->cpuset);
    if (!one) return;
    hwloc_bitmap_and(one, one, t->set);
    hwloc_bitmap_singlify(one);
    hwloc_set_cpubind(t->hw, one, HWLOC_CPUBIND_THREAD);
    hwloc_bitmap_free(one);
}
