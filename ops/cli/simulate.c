#include "ops/cli/simulate.h"
#include "core/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Owns the time of a cluster that is not there. Prints nothing; never says that a figure was measured. */

#define SEED_GAPS 0x67617073u
#define SEED_LENGTHS 0x6c656e73u
#define OPENING 4            /* messages between an answer and its client's next prompt rows: DONE, SUBMIT, SESSION_OPEN and its reply */
#define ROW_BYTES 40.0       /* of a STEP's record (proto/messages.def) */

typedef enum { WAITING, PROMPT, DECODE, OVER } state;
typedef struct { state at; uint32_t n_prompt, n_gen, sent, made; double t_sent, t_first, t_last; uint64_t last_step; } session;

typedef struct { uint32_t session, rows; } part;
typedef struct {
    part *part;              /* [max_rows] */
    uint32_t n_parts, rows, wants, stage;
    double context;          /* rows that its rows attend to, in all */
    bool decode, used;
} step;

typedef struct {             /* what a stage is doing */
    uint32_t *queue, n;      /* [width] steps that are here; the first one is computed */
    double left, crowd;      /* of the step: microseconds alone; how many times as long in a full crowd */
    double rate;             /* of `left` a microsecond */
    double since, busy;
    uint32_t version;        /* finishing times of older versions are void */
    uint32_t lo, hi;         /* stages of its node */
} worker;

typedef enum { ARRIVE, AT_STAGE, FINISHED, AT_HOME } kind;
typedef struct { double t; kind k; uint32_t a, b; } event;

typedef struct {
    const sim_cluster *c;
    const sim_load *l;
    sim_result *out;
    session *s;              /* [requests] in the order of arrival; [live_from, begun) may be live */
    uint32_t begun, done, live_from;
    uint32_t coming;         /* requests of clients that just had an answer */
    step *step;              /* [width] */
    uint32_t width, in_flight;
    bool last_was_prompt;
    worker *w;               /* [c->n] */
    event *heap;
    size_t n_heap, cap_heap;
    double now;
    bool failed;
} sim;

/* ---- events in the order of time ---------------------------------------------------------------------------------------- */

static void push(sim *m, double t, kind k, uint32_t a, uint32_t b)
{
    if (m->n_heap == m->cap_heap) {
        size_t cap = m->cap_heap ? 2 * m->cap_heap : 256;
        event *more = realloc(m->heap, cap * sizeof *more);
        if (!more) {
            m->failed = true;
            return;
        }
        m->heap = more;
        m->cap_heap = cap;
    }
    size_t i = m->n_heap++;
    for (; i && m->heap[(i - 1) / 2].t > t; i = (i - 1) / 2) m->heap[i] = m->heap[(i - 1) / 2];
    m->heap[i] = (event){ t, k, a, b };
}

static event pop(sim *m)
{
    event top = m->heap[0], last = m->heap[--m->n_heap];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < m->n_heap; i = child) {
        if (child + 1 < m->n_heap && m->heap[child + 1].t < m->heap[child].t) child++;
        if (m->heap[child].t >= last.t) break;
        m->heap[i] = m->heap[child];
    }
    m->heap[i] = last;
    return top;
}

/* ---- stages: how long a step takes, and who shares what ------------------------------------------------------------------ */

static void cost_of(const sim *m, const sim_stage *g, const step *p, worker *w)
{
    const costs *c = m->c->costs;
    const cost_team *t = cost_team_of(c, g->threads);
    double layers = 0, faster = (double)g->threads / t->threads;   /* more threads than were measured: in proportion */
    for (uint32_t l = g->part.first; l < g->part.last; l++) layers += c->weight[l];
    double attend = c->attend_us * p->context * (g->part.last - g->part.first) / g->threads;
    double head = g->part.head ? 1 : 0, embed = g->part.embed ? c->embed_us * p->rows : 0;
    double alone = (layers * cost_at(c, &t->layer, p->rows) + head * cost_at(c, &t->head, p->wants)) / faster + attend + embed;
    double full = (layers * cost_at(c, &t->layer_crowded, p->rows) + head * cost_at(c, &t->head_crowded, p->wants)) / faster + attend + embed;
    w->left = alone > 0 ? alone : 1e-3;
    w->crowd = full > alone && alone > 0 ? full / alone : 1;
}

/* Groups of the node that compute, and stages of this group that do. */
static void company(const sim *m, uint32_t stage, uint32_t *groups, uint32_t *mates)
{
    const sim_stage *me = &m->c->stage[stage];
    uint64_t seen[SIM_STAGES_MAX / 64 + 1] = { 0 };
    *groups = *mates = 0;
    for (uint32_t i = m->w[stage].lo; i < m->w[stage].hi; i++) {
        const sim_stage *g = &m->c->stage[i];
        if (!m->w[i].n) continue;
        *mates += g->group == me->group;
        if (!(seen[g->group / 64] >> (g->group % 64) & 1)) ++*groups;
        seen[g->group / 64] |= 1ull << (g->group % 64);
    }
}

static double rate_of(const sim *m, uint32_t stage)
{
    const worker *w = &m->w[stage];
    const sim_stage *g = &m->c->stage[stage];
    uint32_t groups, mates, crowd = cost_team_of(m->c->costs, g->threads)->crowd;
    company(m, stage, &groups, &mates);
    double full = crowd > 1 ? (double)(groups - 1) / (crowd - 1) : 0;
    if (full > 1) full = 1;
    return g->speed / mates / (1 + (w->crowd - 1) * full);
}

/* A stage began or ended: all others on its node go on at another pace. */
static void new_pace(sim *m, uint32_t stage)
{
    for (uint32_t i = m->w[stage].lo; i < m->w[stage].hi; i++) {
        worker *w = &m->w[i];
        if (!w->n) continue;
        w->left -= (m->now - w->since) * w->rate;
        if (w->left < 0) w->left = 0;
        w->since = m->now;
        w->rate = rate_of(m, i);
        push(m, m->now + w->left / w->rate, FINISHED, i, ++w->version);
    }
}

static void begin(sim *m, uint32_t stage)
{
    worker *w = &m->w[stage];
    cost_of(m, &m->c->stage[stage], &m->step[w->queue[0]], w);
    w->since = m->now;
    w->rate = 0; /* until new_pace */
}

static void arrive(sim *m, uint32_t stage, uint32_t at)
{
    worker *w = &m->w[stage];
    w->queue[w->n++] = at;
    if (w->n > 1) return;
    w->busy -= m->now;
    begin(m, stage);
    new_pace(m, stage);
}

static void finished(sim *m, uint32_t stage)
{
    worker *w = &m->w[stage];
    const sim_stage *g = &m->c->stage[stage];
    uint32_t at = w->queue[0];
    const step *p = &m->step[at];
    memmove(w->queue, w->queue + 1, --w->n * sizeof *w->queue);
    double bytes = stage + 1 < m->c->n ? p->rows * (ROW_BYTES + 4.0 * m->c->costs->D) : p->wants * (64 * 8 + 48.0);
    push(m, m->now + g->latency_us + g->mb_us * bytes * 1e-6, stage + 1 < m->c->n ? AT_STAGE : AT_HOME, at, stage + 1);
    w->version++;
    if (w->n) begin(m, stage);
    else w->busy += m->now;
    new_pace(m, stage);
}

/* ---- the coordinator: coordinator/pump.c in small ------------------------------------------------------------------------ */

static bool decodes(const session *s) { return s->at == DECODE || (s->at == WAITING && s->sent >= s->n_prompt); }

typedef struct { uint32_t decode, prompt, decoding; } counts;

static counts count(const sim *m)
{
    counts n = { 0 };
    for (uint32_t i = m->live_from; i < m->begun; i++) {
        n.decode += m->s[i].at == DECODE;
        n.prompt += m->s[i].at == PROMPT;
        n.decoding += decodes(&m->s[i]);
    }
    return n;
}

static void add_part(step *p, session *s, uint32_t index, uint32_t rows, uint64_t number)
{
    p->part[p->n_parts++] = (part){ index, rows };
    p->rows += rows;
    p->context += rows * (s->sent + (rows + 1) / 2.0);
    s->sent += rows;
    s->last_step = number;
    bool last = s->sent >= s->n_prompt;
    p->wants += last;
    if (last) s->at = WAITING;
}

static session *longest_waiting(sim *m, uint32_t *index)
{
    session *best = NULL;
    for (uint32_t i = m->live_from; i < m->begun; i++)
        if (m->s[i].at == DECODE && (!best || m->s[i].last_step < best->last_step)) best = &m->s[i], *index = i;
    return best;
}

static void add_decode(sim *m, step *p, counts n)
{
    uint32_t places = m->width - (m->width > 1 && n.prompt), share = (n.decoding + places - 1) / places, i = 0;
    if (share > m->l->max_rows) share = m->l->max_rows;
    for (session *s; p->rows < share && (s = longest_waiting(m, &i));) add_part(p, s, i, 1, m->out->steps);
}

static void add_prompt(sim *m, step *p)
{
    uint32_t room = m->l->chunk < m->l->max_rows ? m->l->chunk : m->l->max_rows;
    for (uint32_t i = m->live_from; i < m->begun && p->rows < room; i++) {
        session *s = &m->s[i];
        if (s->at != PROMPT) continue;
        uint32_t left = s->n_prompt - s->sent, rows = left < room - p->rows ? left : room - p->rows;
        add_part(p, s, i, rows, m->out->steps);
        if (s->at == PROMPT) return; /* its next chunk is another step */
    }
}

static bool choose(const sim *m, const counts *n, bool *decode)
{
    *decode = false;
    if (!n->decode && !n->prompt) return false;
    if (n->prompt && m->last_was_prompt && n->decoding) return *decode = true, n->decode > 0;
    *decode = !n->prompt;
    return true;
}

static void fill(sim *m, double when)
{
    bool decode;
    for (counts n = count(m); m->in_flight < m->width && choose(m, &n, &decode); n = count(m)) {
        uint32_t at = 0;
        while (m->step[at].used) at++;
        step *p = &m->step[at];
        *p = (step){ .part = p->part, .used = true, .decode = decode };
        m->out->steps++;
        if (decode) add_decode(m, p, n);
        else add_prompt(m, p);
        m->last_was_prompt = !decode;
        m->in_flight++;
        push(m, when + m->c->first_us + m->c->stage[0].mb_us * p->rows * ROW_BYTES * 1e-6, AT_STAGE, at, 0);
    }
}

static void begin_session(sim *m)
{
    const sim_load *l = m->l;
    uint32_t i = m->begun++;
    uint64_t seed = l->seed ^ SEED_LENGTHS;
    m->s[i] = (session){ .at = PROMPT, .n_prompt = l->prompt[rng_u64(seed, 2 * (uint64_t)i) % l->n_prompt],
                         .n_gen = l->gen[rng_u64(seed, 2 * (uint64_t)i + 1) % l->n_gen], .t_sent = m->now };
}

/* A token came. */
static void take(sim *m, session *s)
{
    if (s->at != WAITING) return;
    if (!s->made++) {
        s->t_first = m->now;
        m->failed |= !samples_add(&m->out->ttft, (m->now - s->t_sent) * 1e-3);
    } else {
        m->failed |= !samples_add(&m->out->itl, (m->now - s->t_last) * 1e-3);
    }
    s->t_last = m->now;
    s->at = s->made < s->n_gen ? DECODE : OVER;
    if (s->at == DECODE) return;
    m->done++;
    if (s->made > 1) m->failed |= !samples_add(&m->out->tpot, (s->t_last - s->t_first) * 1e-3 / (s->made - 1));
    while (m->live_from < m->begun && m->s[m->live_from].at == OVER) m->live_from++;
    if (m->l->rate <= 0 && m->begun + m->coming < m->l->requests) {
        m->coming++;
        push(m, m->now + OPENING * m->c->costs->hop_us, ARRIVE, 0, 0);
    }
}

static void came_home(sim *m, uint32_t at)
{
    step *p = &m->step[at];
    for (uint32_t i = 0; i < p->n_parts; i++) take(m, &m->s[p->part[i].session]);
    p->used = false;
    m->in_flight--;
    fill(m, m->now + m->c->costs->turn_us + m->c->costs->turn_row_us * p->wants);
}

static void arrived(sim *m)
{
    if (m->coming) m->coming--;
    begin_session(m);
    fill(m, m->now);
}

/* ---- a run ----------------------------------------------------------------------------------------------------------------- */

static err_code check(const sim_cluster *c, const sim_load *l, err *e)
{
    if (!c->n || c->n > SIM_STAGES_MAX) return err_set(e, ERR_CONFIG, "simulate: %u stages, want 1 to %u", c->n, SIM_STAGES_MAX);
    if (!l->requests || !l->chunk || !l->max_rows || !l->n_prompt || !l->n_gen || (l->rate <= 0 && !l->clients))
        return err_set(e, ERR_CONFIG, "simulate: a load of nothing never ends");
    for (uint32_t i = 0; i < l->n_prompt; i++)
        if (!l->prompt[i]) return err_set(e, ERR_CONFIG, "simulate: a prompt of 0 tokens");
    for (uint32_t i = 0; i < l->n_gen; i++)
        if (!l->gen[i]) return err_set(e, ERR_CONFIG, "simulate: 0 tokens to generate");
    for (uint32_t i = 0; i < c->n; i++)
        if (!(c->stage[i].speed > 0) || !c->stage[i].threads || c->stage[i].group >= SIM_STAGES_MAX)
            return err_set(e, ERR_CONFIG, "simulate: stage %u has speed %g and %u threads", i, c->stage[i].speed, c->stage[i].threads);
    return ERR_OK;
}

/* Stages of a node stand together. */
static void find_nodes(sim *m)
{
    const sim_stage *g = m->c->stage;
    for (uint32_t i = 0, hi; i < m->c->n; i = hi) {
        for (hi = i + 1; hi < m->c->n && g[hi].node == g[i].node;) hi++;
        for (uint32_t k = i; k < hi; k++) m->w[k].lo = i, m->w[k].hi = hi;
    }
}

static bool reserve(sim *m)
{
    m->s = calloc(m->l->requests, sizeof *m->s);
    m->step = calloc(m->width, sizeof *m->step);
    m->w = calloc(m->c->n, sizeof *m->w);
    bool ok = m->s && m->step && m->w;
    if (ok) find_nodes(m);
    for (uint32_t i = 0; ok && i < m->width; i++) ok = (m->step[i].part = calloc(m->l->max_rows, sizeof(part))) != NULL;
    for (uint32_t i = 0; ok && i < m->c->n; i++) ok = (m->w[i].queue = calloc(m->width, sizeof(uint32_t))) != NULL;
    return ok;
}

static void give_back(sim *m)
{
    for (uint32_t i = 0; m->step && i < m->width; i++) free(m->step[i].part);
    for (uint32_t i = 0; m->w && i < m->c->n; i++) free(m->w[i].queue);
    free(m->s);
    free(m->step);
    free(m->w);
    free(m->heap);
}

static void start_load(sim *m)
{
    const sim_load *l = m->l;
    double t = 0;
    for (uint32_t i = 0; l->rate > 0 && i < l->requests; i++) {
        t += -log(1 - rng_unit(l->seed ^ SEED_GAPS, i)) / l->rate * 1e6;
        push(m, t, ARRIVE, 0, 0);
    }
    for (uint32_t i = 0; l->rate <= 0 && i < l->clients && i < l->requests; i++) begin_session(m);
    fill(m, 0);
}

/* More live sessions than the cluster runs at once wait in its queue; here they wait in front of the prompt, which is the same
 * for everybody behind them. */
static void run(sim *m)
{
    start_load(m);
    while (m->n_heap && m->done < m->l->requests && !m->failed) {
        event ev = pop(m);
        if (ev.k == FINISHED && m->w[ev.a].version != ev.b) continue;
        m->now = ev.t;
        m->out->events++;
        if (ev.k == ARRIVE) arrived(m);
        else if (ev.k == AT_STAGE) arrive(m, ev.b, ev.a);
        else if (ev.k == FINISHED) finished(m, ev.a);
        else came_home(m, ev.a);
    }
}

static void sum_up(sim *m)
{
    double s = m->now * 1e-6, gen = 0, prompt = 0;
    for (uint32_t i = 0; i < m->begun; i++) gen += m->s[i].made, prompt += m->s[i].n_prompt;
    m->out->seconds = s;
    m->out->gen_s = s > 0 ? gen / s : 0;
    m->out->prompt_s = s > 0 ? prompt / s : 0;
    m->out->req_s = s > 0 ? m->done / s : 0;
    for (uint32_t i = 0; i < m->c->n; i++) m->out->busy[i] = m->now > 0 ? (m->w[i].busy + (m->w[i].n ? m->now : 0)) / m->now : 0;
}

err_code simulate(const sim_cluster *c, const sim_load *l, sim_result *out, err *e)
{
    memset(out, 0, sizeof *out);
    err_code rc = check(c, l, e);
    if (rc) return rc;
    sim m = { .c = c, .l = l, .out = out, .width = l->width ? l->width : c->n };
    m.failed = !reserve(&m);
    if (!m.failed) run(&m);
    if (!m.failed) sum_up(&m);
    rc = m.failed ? err_set(e, ERR_NOMEM, "out of memory for the simulation") : ERR_OK;
    give_back(&m);
    if (rc) simulate_free(out);
    return rc;
}

void simulate_free(sim_result *r)
{
    samples_free(&r->ttft);
    samples_free(&r->itl);
    samples_free(&r->tpot);
}
