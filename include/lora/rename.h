/* Generated from lib/abi/ by gen_abi.py.
 *
 * Puts LORA_NAMESPACE before every public name, so that two copies of the
 * library can live in one program: -DLORA_NAMESPACE=engine_ makes lora_adapter
 * engine_lora_adapter. Constants are left alone: no linker sees them.
 */
#ifndef LORA_RENAME_H
#define LORA_RENAME_H

#define LORA__RENAME_JOIN(prefix, name) prefix##name
#define LORA__RENAME(prefix, name) LORA__RENAME_JOIN(prefix, name)

#define lora_adapter LORA__RENAME(LORA_NAMESPACE, lora_adapter)
#define lora_adapter_check LORA__RENAME(LORA_NAMESPACE, lora_adapter_check)
#define lora_adapter_check_options                                             \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_check_options)
#define lora_adapter_check_options_init                                        \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_check_options_init)
#define lora_adapter_convert LORA__RENAME(LORA_NAMESPACE, lora_adapter_convert)
#define lora_adapter_convert_options                                           \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_convert_options)
#define lora_adapter_convert_options_init                                      \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_convert_options_init)
#define lora_adapter_delta LORA__RENAME(LORA_NAMESPACE, lora_adapter_delta)
#define lora_adapter_delta_options                                             \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_delta_options)
#define lora_adapter_delta_options_init                                        \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_delta_options_init)
#define lora_adapter_describe                                                  \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_describe)
#define lora_adapter_describe_options                                          \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_describe_options)
#define lora_adapter_describe_options_init                                     \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_describe_options_init)
#define lora_adapter_destroy LORA__RENAME(LORA_NAMESPACE, lora_adapter_destroy)
#define lora_adapter_extract LORA__RENAME(LORA_NAMESPACE, lora_adapter_extract)
#define lora_adapter_extract_options                                           \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_extract_options)
#define lora_adapter_extract_options_init                                      \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_extract_options_init)
#define lora_adapter_factors LORA__RENAME(LORA_NAMESPACE, lora_adapter_factors)
#define lora_adapter_find_metadata                                             \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_find_metadata)
#define lora_adapter_find_module                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_find_module)
#define lora_adapter_fix LORA__RENAME(LORA_NAMESPACE, lora_adapter_fix)
#define lora_adapter_fix_options                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_fix_options)
#define lora_adapter_fix_options_init                                          \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_fix_options_init)
#define lora_adapter_get_info                                                  \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_get_info)
#define lora_adapter_get_metadata                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_get_metadata)
#define lora_adapter_get_module                                                \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_get_module)
#define lora_adapter_get_modules                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_get_modules)
#define lora_adapter_get_tensor                                                \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_get_tensor)
#define lora_adapter_get_tensor_info                                           \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_get_tensor_info)
#define lora_adapter_get_tensor_infos                                          \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_get_tensor_infos)
#define lora_adapter_info LORA__RENAME(LORA_NAMESPACE, lora_adapter_info)
#define lora_adapter_metadata_count                                            \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_metadata_count)
#define lora_adapter_module_count                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_module_count)
#define lora_adapter_open LORA__RENAME(LORA_NAMESPACE, lora_adapter_open)
#define lora_adapter_open_memory                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_open_memory)
#define lora_adapter_open_options                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_open_options)
#define lora_adapter_open_options_init                                         \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_open_options_init)
#define lora_adapter_open_reader                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_open_reader)
#define lora_adapter_read_tensor                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_read_tensor)
#define lora_adapter_read_tensors                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_read_tensors)
#define lora_adapter_resize LORA__RENAME(LORA_NAMESPACE, lora_adapter_resize)
#define lora_adapter_resize_options                                            \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_resize_options)
#define lora_adapter_resize_options_init                                       \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_resize_options_init)
#define lora_adapter_retain LORA__RENAME(LORA_NAMESPACE, lora_adapter_retain)
#define lora_adapter_save LORA__RENAME(LORA_NAMESPACE, lora_adapter_save)
#define lora_adapter_save_delta                                                \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_save_delta)
#define lora_adapter_save_memory                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_save_memory)
#define lora_adapter_save_options                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_save_options)
#define lora_adapter_save_options_init                                         \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_save_options_init)
#define lora_adapter_save_peft                                                 \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_save_peft)
#define lora_adapter_save_writer                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_save_writer)
#define lora_adapter_tensor_count                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_adapter_tensor_count)
#define lora_allocator LORA__RENAME(LORA_NAMESPACE, lora_allocator)
#define lora_backend LORA__RENAME(LORA_NAMESPACE, lora_backend)
#define lora_build_info LORA__RENAME(LORA_NAMESPACE, lora_build_info)
#define lora_builder LORA__RENAME(LORA_NAMESPACE, lora_builder)
#define lora_builder_add_tensor                                                \
    LORA__RENAME(LORA_NAMESPACE, lora_builder_add_tensor)
#define lora_builder_create LORA__RENAME(LORA_NAMESPACE, lora_builder_create)
#define lora_builder_destroy LORA__RENAME(LORA_NAMESPACE, lora_builder_destroy)
#define lora_builder_finish LORA__RENAME(LORA_NAMESPACE, lora_builder_finish)
#define lora_builder_remove_tensor                                             \
    LORA__RENAME(LORA_NAMESPACE, lora_builder_remove_tensor)
#define lora_builder_set_metadata                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_builder_set_metadata)
#define lora_cancel_token LORA__RENAME(LORA_NAMESPACE, lora_cancel_token)
#define lora_cancel_token_cancel                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_cancel_token_cancel)
#define lora_cancel_token_create                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_cancel_token_create)
#define lora_cancel_token_destroy                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_cancel_token_destroy)
#define lora_cancel_token_reset                                                \
    LORA__RENAME(LORA_NAMESPACE, lora_cancel_token_reset)
#define lora_context LORA__RENAME(LORA_NAMESPACE, lora_context)
#define lora_context_create LORA__RENAME(LORA_NAMESPACE, lora_context_create)
#define lora_context_destroy LORA__RENAME(LORA_NAMESPACE, lora_context_destroy)
#define lora_context_memory_live                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_context_memory_live)
#define lora_context_memory_peak                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_context_memory_peak)
#define lora_context_options LORA__RENAME(LORA_NAMESPACE, lora_context_options)
#define lora_context_options_init                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_context_options_init)
#define lora_context_retain LORA__RENAME(LORA_NAMESPACE, lora_context_retain)
#define lora_cpu LORA__RENAME(LORA_NAMESPACE, lora_cpu)
#define lora_dtype LORA__RENAME(LORA_NAMESPACE, lora_dtype)
#define lora_dtype_bits LORA__RENAME(LORA_NAMESPACE, lora_dtype_bits)
#define lora_dtype_from_name LORA__RENAME(LORA_NAMESPACE, lora_dtype_from_name)
#define lora_dtype_name LORA__RENAME(LORA_NAMESPACE, lora_dtype_name)
#define lora_error LORA__RENAME(LORA_NAMESPACE, lora_error)
#define lora_error_init LORA__RENAME(LORA_NAMESPACE, lora_error_init)
#define lora_executor LORA__RENAME(LORA_NAMESPACE, lora_executor)
#define lora_extract_kind LORA__RENAME(LORA_NAMESPACE, lora_extract_kind)
#define lora_feature_supported                                                 \
    LORA__RENAME(LORA_NAMESPACE, lora_feature_supported)
#define lora_hash_file LORA__RENAME(LORA_NAMESPACE, lora_hash_file)
#define lora_hashes LORA__RENAME(LORA_NAMESPACE, lora_hashes)
#define lora_limits LORA__RENAME(LORA_NAMESPACE, lora_limits)
#define lora_log_fn LORA__RENAME(LORA_NAMESPACE, lora_log_fn)
#define lora_log_level LORA__RENAME(LORA_NAMESPACE, lora_log_level)
#define lora_metadata_change LORA__RENAME(LORA_NAMESPACE, lora_metadata_change)
#define lora_metadata_edit LORA__RENAME(LORA_NAMESPACE, lora_metadata_edit)
#define lora_metadata_edit_file                                                \
    LORA__RENAME(LORA_NAMESPACE, lora_metadata_edit_file)
#define lora_metadata_edit_options                                             \
    LORA__RENAME(LORA_NAMESPACE, lora_metadata_edit_options)
#define lora_metadata_edit_options_init                                        \
    LORA__RENAME(LORA_NAMESPACE, lora_metadata_edit_options_init)
#define lora_module_info LORA__RENAME(LORA_NAMESPACE, lora_module_info)
#define lora_openblas_backend                                                  \
    LORA__RENAME(LORA_NAMESPACE, lora_openblas_backend)
#define lora_part LORA__RENAME(LORA_NAMESPACE, lora_part)
#define lora_problem LORA__RENAME(LORA_NAMESPACE, lora_problem)
#define lora_progress_fn LORA__RENAME(LORA_NAMESPACE, lora_progress_fn)
#define lora_rank_counting LORA__RENAME(LORA_NAMESPACE, lora_rank_counting)
#define lora_rank_override LORA__RENAME(LORA_NAMESPACE, lora_rank_override)
#define lora_rank_rule LORA__RENAME(LORA_NAMESPACE, lora_rank_rule)
#define lora_rank_rule_kind LORA__RENAME(LORA_NAMESPACE, lora_rank_rule_kind)
#define lora_rank_split LORA__RENAME(LORA_NAMESPACE, lora_rank_split)
#define lora_reader LORA__RENAME(LORA_NAMESPACE, lora_reader)
#define lora_report LORA__RENAME(LORA_NAMESPACE, lora_report)
#define lora_report_destroy LORA__RENAME(LORA_NAMESPACE, lora_report_destroy)
#define lora_report_fix_count                                                  \
    LORA__RENAME(LORA_NAMESPACE, lora_report_fix_count)
#define lora_report_get_fix LORA__RENAME(LORA_NAMESPACE, lora_report_get_fix)
#define lora_report_get_module                                                 \
    LORA__RENAME(LORA_NAMESPACE, lora_report_get_module)
#define lora_report_get_problem                                                \
    LORA__RENAME(LORA_NAMESPACE, lora_report_get_problem)
#define lora_report_module LORA__RENAME(LORA_NAMESPACE, lora_report_module)
#define lora_report_module_count                                               \
    LORA__RENAME(LORA_NAMESPACE, lora_report_module_count)
#define lora_report_problem_count                                              \
    LORA__RENAME(LORA_NAMESPACE, lora_report_problem_count)
#define lora_report_to_json LORA__RENAME(LORA_NAMESPACE, lora_report_to_json)
#define lora_severity LORA__RENAME(LORA_NAMESPACE, lora_severity)
#define lora_spectra LORA__RENAME(LORA_NAMESPACE, lora_spectra)
#define lora_spectra_create LORA__RENAME(LORA_NAMESPACE, lora_spectra_create)
#define lora_spectra_destroy LORA__RENAME(LORA_NAMESPACE, lora_spectra_destroy)
#define lora_spectra_resize LORA__RENAME(LORA_NAMESPACE, lora_spectra_resize)
#define lora_status LORA__RENAME(LORA_NAMESPACE, lora_status)
#define lora_status_name LORA__RENAME(LORA_NAMESPACE, lora_status_name)
#define lora_strength LORA__RENAME(LORA_NAMESPACE, lora_strength)
#define lora_task_fn LORA__RENAME(LORA_NAMESPACE, lora_task_fn)
#define lora_tensor LORA__RENAME(LORA_NAMESPACE, lora_tensor)
#define lora_tensor_convert LORA__RENAME(LORA_NAMESPACE, lora_tensor_convert)
#define lora_tensor_info LORA__RENAME(LORA_NAMESPACE, lora_tensor_info)
#define lora_tensor_read LORA__RENAME(LORA_NAMESPACE, lora_tensor_read)
#define lora_version_number LORA__RENAME(LORA_NAMESPACE, lora_version_number)
#define lora_version_string LORA__RENAME(LORA_NAMESPACE, lora_version_string)
#define lora_writer LORA__RENAME(LORA_NAMESPACE, lora_writer)

#endif
