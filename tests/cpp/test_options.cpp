#include "check.h"
#include "options.h"

#include <cstring>

using namespace gge;

TEST(null_means_defaults) {
    const LoadOptions load = read_options(static_cast<const gge_model_options *>(nullptr));
    CHECK_EQ(load.device, "auto");
    CHECK(load.mmap);
    const TokenizeOptions tokenize = read_options(static_cast<const gge_tokenize_options *>(nullptr));
    CHECK(tokenize.add_special && !tokenize.parse_special && tokenize.prompt.empty());
    const EngineOptions engine = read_options(static_cast<const gge_engine_options *>(nullptr));
    CHECK(engine.n_ctx == 0 && engine.attention == AttentionChoice::from_file);
    CHECK(engine.flash_attention == FlashAttention::automatic);
    CHECK_EQ(engine.max_queued_tokens, int64_t{1} << 20);
    const EncodeOptions encode = read_options(static_cast<const gge_encode_options *>(nullptr));
    CHECK(encode.normalize == GGE_SWITCH_DEFAULT && encode.truncate_dim == 0 && encode.pooling == GGE_POOLING_DEFAULT);
}

TEST(zero_filled_struct_means_defaults) {
    gge_encode_options o{};
    o.struct_size = sizeof(o);
    CHECK_EQ(read_options(&o).normalize, GGE_SWITCH_DEFAULT);
    gge_model_options m{};
    m.struct_size = sizeof(m);
    m.device = "";
    CHECK_EQ(read_options(&m).device, "auto");
}

TEST(values_are_read) {
    gge_engine_options o{};
    o.struct_size = sizeof(o);
    o.n_ctx = 1;
    o.n_ubatch = 2;
    o.n_seq_max = 3;
    o.n_threads = 4;
    o.attention = GGE_ATTENTION_BIDIRECTIONAL;
    o.flash_attention = GGE_OFF;
    o.max_queued_tokens = 5;
    const EngineOptions r = read_options(&o);
    CHECK_EQ(r.max_queued_tokens, 5);
    CHECK(r.n_ctx == 1 && r.n_ubatch == 2 && r.n_seq_max == 3 && r.n_threads == 4);
    CHECK(r.attention == AttentionChoice::bidirectional && r.flash_attention == FlashAttention::off);

    const uint8_t prompt[] = {'a', 0, 'b'};
    gge_tokenize_options t{};
    t.struct_size = sizeof(t);
    t.prompt = prompt;
    t.prompt_bytes = 3;
    t.add_special = GGE_OFF;
    t.parse_special = GGE_ON;
    CHECK_EQ(read_options(&t).prompt, std::string("a\0b", 3));
    t.n_threads = 5;
    CHECK(!read_options(&t).add_special && read_options(&t).parse_special);
    CHECK_EQ(read_options(&t).n_threads, 5);
}

TEST(struct_of_an_older_caller_is_filled_up_with_defaults) {
    gge_encode_options o{};
    o.struct_size = offsetof(gge_encode_options, normalize);
    o.truncate_dim = 5;
    o.normalize = GGE_OFF; // beyond the end of the caller's struct: must not be looked at
    const EncodeOptions r = read_options(&o);
    CHECK_EQ(r.truncate_dim, 5);
    CHECK_EQ(r.normalize, GGE_SWITCH_DEFAULT);
}

TEST(struct_of_a_newer_caller_is_taken_if_the_new_fields_are_default) {
    struct {
        gge_encode_options known;
        int64_t added;
    } newer{};
    newer.known.struct_size = sizeof(newer);
    newer.known.truncate_dim = 7;
    CHECK_EQ(read_options(&newer.known).truncate_dim, 7);
    newer.added = 1;
    CHECK(check::contains(CHECK_THROWS(GGE_E_UNSUPPORTED, read_options(&newer.known)), "does not know"));
}

TEST(bad_values_are_refused_with_name_value_and_limit) {
    gge_engine_options e{};
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, read_options(&e)), "struct_size is 0"));
    e.struct_size = sizeof(e);
    e.n_seq_max = 257;
    const std::string message = CHECK_THROWS(GGE_E_INVALID, read_options(&e));
    CHECK(check::contains(message, "n_seq_max is 257") && check::contains(message, "256"));
    e.n_seq_max = 0;
    e.n_threads = -1;
    CHECK_THROWS(GGE_E_INVALID, read_options(&e));
    e.n_threads = 0;
    e.attention = 3;
    CHECK_THROWS(GGE_E_INVALID, read_options(&e));
    e.attention = 0;
    e.max_queued_tokens = -1;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, read_options(&e)), "max_queued_tokens is -1"));
    gge_encode_options o{};
    o.struct_size = sizeof(o);
    o.normalize = 3;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, read_options(&o)), "normalize is 3"));
    o.normalize = 0;
    o.pooling = 6;
    CHECK_THROWS(GGE_E_INVALID, read_options(&o));
    o.pooling = 0;
    o.truncate_dim = -1;
    CHECK_THROWS(GGE_E_INVALID, read_options(&o));
    gge_tokenize_options t{};
    t.struct_size = sizeof(t);
    t.prompt_bytes = 1;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, read_options(&t)), "prompt is NULL"));
    t.prompt_bytes = 0;
    t.n_threads = 513;
    CHECK(check::contains(CHECK_THROWS(GGE_E_INVALID, read_options(&t)), "n_threads is 513"));
    gge_model_options m{};
    m.struct_size = sizeof(m);
    m.n_gpu_layers = -2;
    CHECK_THROWS(GGE_E_INVALID, read_options(&m));
}

TEST(write_struct_leaves_the_rest_of_a_shorter_struct_alone) {
    gge_engine_info info;
    std::memset(static_cast<void *>(&info), 0x55, sizeof(info));
    info.struct_size = offsetof(gge_engine_info, n_seq_max);
    gge_engine_info filled{};
    filled.n_ctx = 11;
    filled.n_seq_max = 22;
    write_struct(&info, filled);
    CHECK_EQ(info.n_ctx, 11);
    CHECK_EQ(info.n_seq_max, 0x55555555);
    CHECK_EQ(info.struct_size, offsetof(gge_engine_info, n_seq_max));
    info.struct_size = 0;
    CHECK_THROWS(GGE_E_INVALID, write_struct(&info, filled));
    CHECK_THROWS(GGE_E_INVALID, write_struct(static_cast<gge_engine_info *>(nullptr), filled));
}
