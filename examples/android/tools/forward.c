/*
 * Stands where ONNX Runtime's JNI library looks for its engine, under its name, and hands on the one that
 * ONNXRUNTIME names: the classes of an older version then run the newer library of the Python wheel, whose
 * C interface serves older callers. For tests on a desktop; an app takes onnxruntime-android, which has all.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef const void *(*Base)(void);
typedef void *(*AppendCpu)(void *options, int use_arena);

static void *found(const char *name) {
    const char *path = getenv("ONNXRUNTIME");
    void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *function = library == NULL ? NULL : dlsym(library, name);
    if (function == NULL) {
        fprintf(stderr, "error: ONNXRUNTIME names no library of ONNX Runtime (%s)\n", path == NULL ? "unset" : path);
        exit(2);
    }
    return function;
}

const void *OrtGetApiBase(void) { return ((Base)found("OrtGetApiBase"))(); }

void *OrtSessionOptionsAppendExecutionProvider_CPU(void *options, int use_arena) {
    return ((AppendCpu)found("OrtSessionOptionsAppendExecutionProvider_CPU"))(options, use_arena);
}
