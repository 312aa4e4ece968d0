#ifndef ENGINE_ROUTE_PROBE_H
#define ENGINE_ROUTE_PROBE_H
/* What leaving out layers costs on one text: the model reads it once with all layers, and what is behind its prompt again for each thing
 * that is left out, from the stored input of the layer where it begins to matter. Rows below `prompt` run everything, the others leave it
 * out: as prompts and generated tokens do. Costs are nats a token over what its model says without. Owns the stored inputs; refuses to average over texts.
 * One thread. */
#include "engine/lab.h"

typedef struct route_probe route_probe;
enum { PROBE_BOTH, PROBE_ATTN, PROBE_FFN, PROBE_PARTS };

typedef struct {                 /* of one text; arrays of L */
    double nll;                  /* nats a token, all layers */
    double entropy;              /* behind the prompt's last token, nats */
    double *damage[PROBE_PARTS]; /* nats a token more without it */
    double *sim[PROBE_PARTS];    /* mean cosine between what goes in and what comes out */
    double *ratio[PROBE_PARTS];  /* norm of what comes out / of what goes in */
    float *feature;              /* [L][D] mean over the prompt's rows, but the last, of the layer's input / its root mean square */
} probe_report;

/* Texts of at most `rows` tokens. The lab outlives the probe, and nobody else watches its runner. */
err_code route_probe_open(route_probe **out, lab *l, uint32_t rows, path_id path, err *e);
void route_probe_close(route_probe **p);
/* Read a text with all layers; 2 <= prompt, prompt + 2 <= n. out NULL: only for route_probe_without. */
err_code route_probe_read(route_probe *p, const uint32_t *ids, uint32_t n, uint32_t prompt, probe_report *out, err *e);
/* Nats a token more on the text that was read last, without a set of layers. kl (may be NULL): KL(all || without), nats a token. */
err_code route_probe_without(route_probe *p, const layer_mask *m, double *damage, double *kl, err *e);
/* A text through the model, its rows behind the prompt by a mask's calm rule: FFNs that those who follow it left out are added to *out, and
 * those that they had to *of. What was read before is forgotten. */
err_code route_probe_calm(route_probe *p, const uint32_t *ids, uint32_t n, uint32_t prompt, const layer_mask *m, uint64_t *out, uint64_t *of, err *e);
/* The same and whose tokens the model would have said itself, one after the other: how many behind the first one, which is the prompt's
 * last row's to say (route_probe_begins). */
typedef struct { double damage, kl; uint32_t said; } probe_cost;
err_code route_probe_cost(route_probe *p, const layer_mask *m, probe_cost *out, err *e);
/* Does the prompt's last row say the token behind the prompt? */
bool route_probe_begins(route_probe *p);
/* Entropy behind the prompt's last row, nats. */
double route_probe_entropy(route_probe *p);
/* The features of the text that was read last, [L][D] as in a report. */
void route_probe_features(const route_probe *p, float *out);
/* What went into the norm of a layer's FFN in the text that was read last, and what came out of the layer: [*n][D] each, row by row. */
void route_probe_ffn(const route_probe *p, uint32_t layer, const float **in, const float **out, uint32_t *n);
/* That text once more, prompt and all, with an adapter: features and costs are its from now on, but all costs are over the model
 * without it. Until the next read. */
err_code route_probe_adapt(route_probe *p, const lora *adapter, float scale, err *e);
#endif
