// Logits of llama.cpp for given token ids, to hold against those of `harmonium logits`.
//
//     logits MODEL.gguf OUT THREADS ID ID ...
//
// All tokens go through one batch, as a prompt does; OUT gets float32 [tokens, vocabulary], without a header. Only
// llama.h is used, so it is built against the library that llama-bench runs.

#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

static int fail(const char * what) {
    std::fprintf(stderr, "logits: %s\n", what);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc < 5) {
        return fail("usage: logits MODEL.gguf OUT THREADS ID ID ...");
    }
    const int num_threads = std::atoi(argv[3]);
    std::vector<llama_token> tokens;
    for (int i = 4; i < argc; ++i) {
        tokens.push_back(std::atoi(argv[i]));
    }

    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        return fail("cannot load the model");
    }
    const int num_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));

    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = static_cast<uint32_t>(tokens.size());
    params.n_threads = params.n_threads_batch = num_threads;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        return fail("cannot make a context");
    }

    llama_batch batch = llama_batch_init(static_cast<int32_t>(tokens.size()), 0, 1);
    batch.n_tokens = static_cast<int32_t>(tokens.size());
    for (int i = 0; i < batch.n_tokens; ++i) {
        if (tokens[i] < 0 || tokens[i] >= num_vocab) {
            return fail("a token id is not in the vocabulary");
        }
        batch.token[i] = tokens[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = true;
    }
    if (llama_decode(context, batch) != 0) {
        return fail("cannot decode");
    }

    FILE * out = std::fopen(argv[2], "wb");
    if (!out) {
        return fail("cannot open the output");
    }
    for (int i = 0; i < batch.n_tokens; ++i) {
        const float * row = llama_get_logits_ith(context, i);
        if (!row || std::fwrite(row, sizeof(float), num_vocab, out) != static_cast<size_t>(num_vocab)) {
            return fail("cannot write the logits");
        }
    }
    if (std::fclose(out) != 0) {
        return fail("cannot write the logits");
    }
    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
