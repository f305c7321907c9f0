/* Prints "struct field offset size" for every struct of the ABI, as the C compiler lays it out. cffi works without a
 * compiler, so a Python test compares its idea of the layout with this one. */
#include "ggembed.h"

#include <stdio.h>

#define FIELD(s, f) printf("%s %s %zu %zu\n", #s, #f, offsetof(s, f), sizeof(((s *)0)->f))
#define SIZE(s) printf("%s - 0 %zu\n", #s, sizeof(s))

int main(void) {
    SIZE(gge_error);
    FIELD(gge_error, status);
    FIELD(gge_error, reserved);
    FIELD(gge_error, input_index);
    FIELD(gge_error, message);

    SIZE(gge_device_info);
    FIELD(gge_device_info, struct_size);
    FIELD(gge_device_info, kind);
    FIELD(gge_device_info, index);
    FIELD(gge_device_info, memory_total);
    FIELD(gge_device_info, memory_free);
    FIELD(gge_device_info, name);
    FIELD(gge_device_info, description);
    FIELD(gge_device_info, compute_major);
    FIELD(gge_device_info, compute_minor);

    SIZE(gge_model_options);
    FIELD(gge_model_options, struct_size);
    FIELD(gge_model_options, device);
    FIELD(gge_model_options, n_gpu_layers);
    FIELD(gge_model_options, mmap);
    FIELD(gge_model_options, progress);
    FIELD(gge_model_options, abort);
    FIELD(gge_model_options, user_data);
    FIELD(gge_model_options, adapters);
    FIELD(gge_model_options, n_adapters);
    FIELD(gge_model_options, n_mmproj);
    FIELD(gge_model_options, mmproj);
    FIELD(gge_model_options, cpu_kernels);
    FIELD(gge_model_options, split);

    SIZE(gge_weights);
    FIELD(gge_weights, type);
    FIELD(gge_weights, kernel);
    FIELD(gge_weights, file_bytes);
    FIELD(gge_weights, memory_bytes);

    SIZE(gge_model_info);
    FIELD(gge_model_info, struct_size);
    FIELD(gge_model_info, pooling);
    FIELD(gge_model_info, pooling_in_file);
    FIELD(gge_model_info, attention);
    FIELD(gge_model_info, has_cache);
    FIELD(gge_model_info, n_embd);
    FIELD(gge_model_info, n_layer);
    FIELD(gge_model_info, n_ctx_train);
    FIELD(gge_model_info, n_vocab);
    FIELD(gge_model_info, add_bos);
    FIELD(gge_model_info, add_eos);
    FIELD(gge_model_info, add_eos_in_file);
    FIELD(gge_model_info, token_bos);
    FIELD(gge_model_info, token_eos);
    FIELD(gge_model_info, token_sep);
    FIELD(gge_model_info, token_pad);
    FIELD(gge_model_info, n_gpu_layers);
    FIELD(gge_model_info, reserved);
    FIELD(gge_model_info, n_params);
    FIELD(gge_model_info, tensor_bytes);
    FIELD(gge_model_info, file_bytes);
    FIELD(gge_model_info, architecture);
    FIELD(gge_model_info, name);
    FIELD(gge_model_info, quantization);
    FIELD(gge_model_info, tokenizer);
    FIELD(gge_model_info, device);
    FIELD(gge_model_info, device_reason);
    FIELD(gge_model_info, n_cls_out);
    FIELD(gge_model_info, n_adapters);
    FIELD(gge_model_info, cpu_kernels);
    FIELD(gge_model_info, n_weights);
    FIELD(gge_model_info, reserved_1);
    FIELD(gge_model_info, weights);

    SIZE(gge_tower_info);
    FIELD(gge_tower_info, struct_size);
    FIELD(gge_tower_info, modality);
    FIELD(gge_tower_info, n_layer);
    FIELD(gge_tower_info, patch_size);
    FIELD(gge_tower_info, merge_size);
    FIELD(gge_tower_info, n_mel_bins);
    FIELD(gge_tower_info, n_window);
    FIELD(gge_tower_info, min_pixels);
    FIELD(gge_tower_info, max_pixels);
    FIELD(gge_tower_info, video_min_pixels);
    FIELD(gge_tower_info, video_max_pixels);
    FIELD(gge_tower_info, n_params);
    FIELD(gge_tower_info, tensor_bytes);
    FIELD(gge_tower_info, file_bytes);
    FIELD(gge_tower_info, projector);
    FIELD(gge_tower_info, name);

    SIZE(gge_media_options);
    FIELD(gge_media_options, struct_size);
    FIELD(gge_media_options, min_pixels);
    FIELD(gge_media_options, max_pixels);

    SIZE(gge_part);
    FIELD(gge_part, kind);
    FIELD(gge_part, reserved);
    FIELD(gge_part, text);
    FIELD(gge_part, n_bytes);
    FIELD(gge_part, media);

    SIZE(gge_tokenize_options);
    FIELD(gge_tokenize_options, struct_size);
    FIELD(gge_tokenize_options, prompt);
    FIELD(gge_tokenize_options, prompt_bytes);
    FIELD(gge_tokenize_options, add_special);
    FIELD(gge_tokenize_options, parse_special);
    FIELD(gge_tokenize_options, input_status);
    FIELD(gge_tokenize_options, abort);
    FIELD(gge_tokenize_options, user_data);
    FIELD(gge_tokenize_options, max_tokens);
    FIELD(gge_tokenize_options, overflow);
    FIELD(gge_tokenize_options, end_token);
    FIELD(gge_tokenize_options, truncated);
    FIELD(gge_tokenize_options, n_tokens_original);
    FIELD(gge_tokenize_options, on_input_error);
    FIELD(gge_tokenize_options, n_threads);
    FIELD(gge_tokenize_options, reserved);

    SIZE(gge_engine_options);
    FIELD(gge_engine_options, struct_size);
    FIELD(gge_engine_options, n_ctx);
    FIELD(gge_engine_options, n_ubatch);
    FIELD(gge_engine_options, n_seq_max);
    FIELD(gge_engine_options, n_threads);
    FIELD(gge_engine_options, attention);
    FIELD(gge_engine_options, flash_attention);
    FIELD(gge_engine_options, n_tower_batch);
    FIELD(gge_engine_options, cuda_graphs);
    FIELD(gge_engine_options, max_queued_tokens);
    FIELD(gge_engine_options, memory_limit);

    SIZE(gge_engine_info);
    FIELD(gge_engine_info, struct_size);
    FIELD(gge_engine_info, n_ctx);
    FIELD(gge_engine_info, n_ubatch);
    FIELD(gge_engine_info, n_seq_max);
    FIELD(gge_engine_info, n_threads);
    FIELD(gge_engine_info, attention);
    FIELD(gge_engine_info, cuda_graphs);
    FIELD(gge_engine_info, cuda_graphs_reason);
    FIELD(gge_engine_info, n_room);
    FIELD(gge_engine_info, reserved);
    FIELD(gge_engine_info, memory_limit);

    SIZE(gge_engine_stats);
    FIELD(gge_engine_stats, struct_size);
    FIELD(gge_engine_stats, n_texts);
    FIELD(gge_engine_stats, n_texts_failed);
    FIELD(gge_engine_stats, n_tokens);
    FIELD(gge_engine_stats, n_tokens_offered);
    FIELD(gge_engine_stats, n_microbatches);
    FIELD(gge_engine_stats, n_graphs_reused);
    FIELD(gge_engine_stats, n_calls);
    FIELD(gge_engine_stats, n_calls_aborted);
    FIELD(gge_engine_stats, seconds_waiting);
    FIELD(gge_engine_stats, seconds_computing);
    FIELD(gge_engine_stats, n_calls_queued);
    FIELD(gge_engine_stats, n_calls_running);
    FIELD(gge_engine_stats, n_texts_queued);
    FIELD(gge_engine_stats, n_tokens_queued);

    SIZE(gge_encode_options);
    FIELD(gge_encode_options, struct_size);
    FIELD(gge_encode_options, pooling);
    FIELD(gge_encode_options, truncate_dim);
    FIELD(gge_encode_options, normalize);
    FIELD(gge_encode_options, output_type);
    FIELD(gge_encode_options, input_status);
    FIELD(gge_encode_options, progress);
    FIELD(gge_encode_options, abort);
    FIELD(gge_encode_options, user_data);
    FIELD(gge_encode_options, on_input_error);
    FIELD(gge_encode_options, ranges);
    FIELD(gge_encode_options, projection);
    FIELD(gge_encode_options, projection_bias);
    FIELD(gge_encode_options, n_projection);
    FIELD(gge_encode_options, adapter);
    FIELD(gge_encode_options, adapter_scale);
    FIELD(gge_encode_options, reserved);

    SIZE(gge_quantize_options);
    FIELD(gge_quantize_options, struct_size);
    FIELD(gge_quantize_options, level);
    FIELD(gge_quantize_options, imatrix);
    FIELD(gge_quantize_options, token_embedding_type);
    FIELD(gge_quantize_options, n_threads);
    FIELD(gge_quantize_options, requantize);
    FIELD(gge_quantize_options, pure);
    FIELD(gge_quantize_options, reserved);
    FIELD(gge_quantize_options, progress);
    FIELD(gge_quantize_options, abort);
    FIELD(gge_quantize_options, user_data);

    SIZE(gge_memory);
    FIELD(gge_memory, struct_size);
    FIELD(gge_memory, weights_device);
    FIELD(gge_memory, weights_host);
    FIELD(gge_memory, cache_device);
    FIELD(gge_memory, cache_host);
    FIELD(gge_memory, compute_device);
    FIELD(gge_memory, compute_host);
    FIELD(gge_memory, output_host);
    FIELD(gge_memory, n_weights);
    FIELD(gge_memory, reserved);
    FIELD(gge_memory, weights);
    return 0;
}
