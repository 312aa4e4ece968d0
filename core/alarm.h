#ifndef CORE_ALARM_H
#define CORE_ALARM_H
/* Does what a session says go wrong? From the entropy, the margin and the id of each of its tokens, nothing else: four numbers, each the
 * worse the larger. Plain arithmetic in one order, so that a rerun has the same bits. Decides nothing about what to do. */
#include <stdbool.h>
#include <stdint.h>

/* ENTROPY  mean of the newest ALARM_NEAR tokens' entropies, nats
 * MARGIN   minus the mean distance of the two best logits, of the same
 * CSD      critical slowing down (Scheffer et al., Nature 461, 53, 2009): in a system that nears a tipping point variance and lag-1
 *          autocorrelation rise. Entropies less their moving mean, both figures in a window that moves over the newest ones, and the smaller
 *          of Kendall's tau of the two over time
 * LOOP     how many of the newest tokens repeat what lies a period in front of them, when that is a third time or more */
#define ALARM_KIND_MAP(X) X(ENTROPY, "entropy") X(MARGIN, "margin") X(CSD, "csd") X(LOOP, "loop")
typedef enum {
#define X(N, n) ALARM_##N,
    ALARM_KIND_MAP(X)
#undef X
    ALARM_KINDS
} alarm_kind;
const char *alarm_name(alarm_kind k);

#define ALARM_NEAR 8u             /* a few words: one hard token is no trouble */
#define ALARM_SEEN 64u            /* tokens that are remembered */
typedef struct { uint64_t n; float entropy[ALARM_SEEN], margin[ALARM_SEEN]; uint32_t token[ALARM_SEEN]; } alarm_series; /* {0} to start */

void alarm_push(alarm_series *a, float entropy, float margin, uint32_t token);
/* -INFINITY: too few tokens to say. */
double alarm_score(const alarm_series *a, alarm_kind k);
#endif
