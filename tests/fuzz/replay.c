/* Gives every file that is named, or lies in a folder that is named, to a fuzz target: the kept inputs as a plain test, in any
 * build and without libFuzzer. It makes no new inputs, and a target that is not content aborts. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

/* A target with a mutator of its own names this; nothing here mutates. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max)
{
    (void)data, (void)max;
    return size;
}

static unsigned long replayed;

static int replay_file(const char *path, size_t size)
{
    FILE *f = fopen(path, "rbe");
    uint8_t *data = malloc(size + 1); /* its own block, so that a sanitizer sees a byte too far */
    int bad = !f || !data || fread(data, 1, size, f) != size;
    if (f) fclose(f);
    if (bad) perror(path);
    else {
        uint8_t *exact = size ? realloc(data, size) : data;
        if (exact) data = exact;
        LLVMFuzzerTestOneInput(data, size);
        replayed++;
    }
    free(data);
    return bad;
}

static int replay(const char *path)
{
    struct stat st;
    struct dirent **entry;
    char inner[4096];
    int bad = 0;
    if (stat(path, &st)) return perror(path), 1;
    if (!S_ISDIR(st.st_mode)) return replay_file(path, (size_t)st.st_size);
    int n = scandir(path, &entry, NULL, alphasort);
    if (n < 0) return perror(path), 1;
    for (int i = 0; i < n; i++) {
        snprintf(inner, sizeof inner, "%s/%s", path, entry[i]->d_name);
        if (entry[i]->d_name[0] != '.') bad |= replay(inner);
        free(entry[i]);
    }
    free(entry);
    return bad;
}

int main(int argc, char **argv)
{
    int bad = argc < 2;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) bad |= replay(argv[i]);
    printf("%lu inputs\n", replayed);
    return bad;
}
