#include "workers/rag/prompt.h"
