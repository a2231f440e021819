"""Parts C to E of the faults that were found (see faults.py): models, checkpoints, numbers and hostile files."""

MODELS = """
C.1 steps of fused optimizers
    integrations/test_accelerated_models.py::test_steps_of_any_optimizer_are_seen
C.2 MAEST's front end
    models/maest/test_maest.py::test_a_hub_folder_is_a_maest
    models/maest/test_maest.py::test_another_extractor_is_refused_by_name
    models/test_assumed.py::test_other_feature_extractors_are_refused_by_name
C.3 ops read bfloat16 as numbers
    integrations/test_torch_op_arguments.py::test_waves_of_other_floating_point_types_are_numbers
    integrations/test_torch_op_arguments.py::test_waves_of_other_integers_are_refused
    integrations/test_torch_op_arguments.py::test_lengths_are_checked
    integrations/test_torch_op_arguments.py::test_a_bfloat16_module_reads_bfloat16_spectrograms
C.4 normalisation of a folder with labels of its own
    models/test_assumed.py::test_a_folder_without_normalisation_has_that_of_transformers
C.5 subclasses with a forward of their own
    integrations/test_accelerated_models.py::test_a_subclass_with_a_forward_of_its_own_is_refused
    integrations/test_accelerated_models.py::test_an_encoder_with_a_forward_of_its_own_is_refused
C.6 epsilons and activations of the live modules
    integrations/test_accelerated_models.py::test_epsilons_of_the_live_modules_count
    integrations/test_accelerated_models.py::test_another_activation_in_one_layer_is_refused
C.7 tracing makes no constant
    integrations/test_accelerated_models.py::test_tracing_names_the_module_to_export
C.8 an adapter beside base weights
    checkpoints/test_placeholders.py::test_adapter_folders
C.9 a geometry that is one of several
    models/test_assumed.py::test_a_bare_file_names_all_that_is_assumed
C.10 a named file beside its config
    checkpoints/test_placeholders.py::test_a_file_with_transformers_names_is_read_with_its_own_config
C.11 heads of a folder without config.json
    models/test_assumed.py::test_heads_of_a_folder_without_config_are_assumed
C.12 AstModule of a bare model
    integrations/test_accelerated_models.py::test_a_module_of_a_bare_model_is_refused
C.13 torch.export of an accelerated model, loading what was exported
    integrations/test_accelerated_models.py::test_tracing_names_the_module_to_export
    integrations/test_torch_ops.py::test_an_exported_program_can_be_saved_and_loaded_elsewhere
C.14 a new classifier and a config that was left alone
    integrations/test_accelerated_models.py::test_a_new_classifier_of_another_width
C.15 fine-tunes that were refused without a cure
    checkpoints/test_wrappers.py::test_prefixes_of_all_names_are_stripped
    checkpoints/test_wrappers.py::test_adapters_are_refused
    checkpoints/test_wrappers.py::test_a_lightning_checkpoint_is_read
    checkpoints/test_placeholders.py::test_adapter_folders
    checkpoints/test_placeholders.py::test_the_folder_of_a_training_names_its_last_checkpoint
    checkpoints/test_placeholders.py::test_pointers_and_pages_in_a_folder
    checkpoints/test_placeholders.py::test_processor_config_comes_first
C.16 gradients in evaluation
    integrations/test_accelerated_models.py::test_a_loss_in_evaluation_has_no_gradient
    integrations/test_transformers.py::test_gradients_of_inputs_are_refused
C.17 autocast, arrays, NaN weights, names of ESC-50
    integrations/test_accelerated_models.py::test_autocast_gives_its_dtype
    integrations/test_accelerated_models.py::test_arrays_and_lists
    integrations/test_accelerated_models.py::test_weights_that_are_not_finite_are_named
    test_labels.py::test_speech_commands_and_esc50
"""

HOSTILE = """
D.1 numbers of configs beyond any type or range
    checkpoints/test_hostile_checkpoints.py::test_numbers_of_config_json_have_ranges
    checkpoints/test_hostile_checkpoints.py::test_numbers_of_preprocessor_config_json_have_ranges
    fuzz/test_targets.py::test_damaged_inputs_are_read_or_refused
D.2 archives of several disks
    checkpoints/test_hostile_checkpoints.py::test_an_archive_of_several_disks
D.3 numbers of threads that can't be
    test_environment.py::test_a_number_of_threads_that_can_not_be
D.4 odd direct calls of the native module
    backends/cpu/test_ops.py::test_wrong_shapes_of_the_other_ops_are_named
    backends/cpu/test_sanitizers.py::test_native_code_has_no_bad_access_and_no_undefined_behaviour
    fuzz/test_targets.py::test_damaged_inputs_are_read_or_refused
D.5 exit and calls after main has ended
    tagging/test_lifetime.py::test_a_process_ends_while_daemon_threads_are_in_calls
    tagging/test_lifetime.py::test_an_exit_handler_can_tag
    tagging/test_lifetime.py::test_a_thread_can_tag_when_main_has_ended
D.6 int8 attention under massive activations
    backends/cpu/test_quantisation.py::test_keys_beside_one_that_takes_most_of_the_attention_still_count
D.7 denormal and huge rows and weights
    backends/cpu/test_extreme_numbers.py::test_tiny_rows_and_weights
    backends/cpu/test_extreme_numbers.py::test_huge_rows_have_finite_products
D.8 NaN comes out as NaN on every tier
    backends/cpu/test_extreme_numbers.py::test_a_row_that_is_not_finite_comes_out_so_and_alone
    backends/cpu/test_extreme_numbers.py::test_attention_to_a_token_that_is_not_a_number
D.9 attention over many keys
    backends/cpu/test_extreme_numbers.py::test_many_keys_attend_in_bfloat16
E.H1 small .pth files that took gigabytes
    checkpoints/test_hostile_checkpoints.py::test_compressed_byteorder_is_not_inflated
    checkpoints/test_hostile_checkpoints.py::test_members_have_limits
    checkpoints/test_torch_pickle.py::test_memory_is_bounded_by_the_length
    checkpoints/test_hostile_checkpoints.py::test_messages_show_no_doubling_lists
    checkpoints/test_hostile_checkpoints.py::test_expanded_tensors_are_refused
    checkpoints/test_hostile_checkpoints.py::test_many_views_of_one_storage_are_refused
    checkpoints/test_torch_pickle.py::test_the_state_of_a_tensor_cannot_be_set
    checkpoints/test_torch_file.py::test_code_in_a_pickle_is_never_run
E.H2 numbers of config.json that decide memory and time
    checkpoints/test_hostile_checkpoints.py::test_numbers_of_config_json_have_ranges
    checkpoints/test_hostile_checkpoints.py::test_numbers_of_preprocessor_config_json_have_ranges
    checkpoints/test_hostile_checkpoints.py::test_clips_of_the_check_of_precisions_are_bounded
    checkpoints/test_hostile_checkpoints.py::test_too_many_tokens_are_refused
E.H3 files of torch before 1.6 are read without torch
    checkpoints/test_torch_file.py::test_files_of_torch_before_1_6
    checkpoints/test_torch_file.py::test_legacy_files_cut_or_damaged
    models/test_recognise.py::test_loading_imports_no_torch
E.H4 exit while a daemon thread is in a call
    tagging/test_lifetime.py::test_a_process_ends_while_daemon_threads_are_in_calls
E.H5 a dead neuron in int8
    backends/cpu/test_extreme_numbers.py::test_tiny_rows_and_weights
E.M1 NaN and infinity that passed unseen
    checkpoints/test_hostile_checkpoints.py::test_a_value_that_is_not_finite_is_named
    checkpoints/test_hostile_checkpoints.py::test_numbers_of_preprocessor_config_json_have_ranges
    tagging/test_any_input.py::test_logits_that_are_not_finite_are_an_error
    tagging/test_calls.py::test_forward_names_what_is_wrong
E.M2 int8 attention of VNNI
    backends/cpu/test_quantisation.py::test_keys_beside_one_that_takes_most_of_the_attention_still_count
E.M3 outlier neurons in int8
    backends/cpu/test_quantisation.py::test_outliers_of_an_input_are_spread_exactly_and_to_effect
E.M4 fork while a tagger loads
    tagging/test_lifetime.py::test_a_child_that_is_forked_while_a_tagger_loads_can_tag
    tagging/test_calls.py::test_a_child_of_a_fork_does_not_wait_for_a_thread_of_its_parent
E.M5 calls once main has ended
    tagging/test_lifetime.py::test_an_exit_handler_can_tag
    tagging/test_lifetime.py::test_a_thread_can_tag_when_main_has_ended
    audio/test_prefetch.py::test_inputs_are_decoded_where_no_thread_can_be_started
E.M6 the cache folder
    test_cache.py::test_links_are_not_followed
    test_cache.py::test_pipes_and_folders_are_no_files
    test_cache.py::test_a_lock_that_is_held_costs_a_second_at_most
    test_cache.py::test_content_that_can_not_be_is_none
    test_cache.py::test_files_and_folders_of_others_are_not_trusted
    test_cache.py::test_a_user_without_a_home_has_no_cache
    backends/cuda/test_autotune_cache.py::test_the_file_survives_what_others_leave_in_it
E.M7 errors of a file object are no end of the file
    audio/test_descriptors.py::test_odd_file_objects
E.M8 formats that nobody documented
    audio/test_bad_audio.py::test_formats_that_are_no_documented_ones
    audio/test_odd_files.py::test_libraries_write_nothing_of_their_own
E.M9 quadratic work in the header of a safetensors file
    checkpoints/test_hostile_checkpoints.py::test_a_duplicate_among_many_names_is_found_at_once
    checkpoints/test_hostile_checkpoints.py::test_shapes_of_big_numbers
E.M10 ops on tensors of other shapes
    integrations/test_torch_op_arguments.py::test_shapes_are_checked_before_any_device_sees_them
    integrations/test_torch_op_arguments.py::test_lengths_on_a_gpu_are_clamped
    integrations/test_torch_op_arguments.py::test_lengths_are_checked
E.M11 a budget for long audio
    tagging/test_calls.py::test_longer_inputs_than_max_duration_are_refused
    audio/test_bad_audio.py::test_a_decompression_bomb_is_an_error
E.L1 exceptions that are no AstfastError
    checkpoints/test_hostile_checkpoints.py::test_an_archive_of_several_disks
    checkpoints/test_hub.py::test_paths_that_can_not_be
    audio/test_bad_audio.py::test_bad_rates
    tagging/test_calls.py::test_impossible_options_are_refused_at_the_call
    tagging/test_calls.py::test_forward_takes_tensors_and_empty_batches
E.L2 pipes and devices as checkpoints and labels
    checkpoints/test_hostile_checkpoints.py::test_pipes_and_devices_are_refused_at_once
    checkpoints/test_hostile_checkpoints.py::test_small_files_have_a_limit
E.L3 labels and names that are commands to a terminal
    commands/test_tag.py::test_labels_reach_no_terminal_as_commands
    commands/test_tag.py::test_odd_names_in_every_encoding
    test_labels.py::test_a_label_that_no_file_can_hold_is_escaped
E.L4 names that are not UTF-8
    audio/test_descriptors.py::test_a_name_that_is_not_utf_8_is_opened
E.L5 files that are replaced
    checkpoints/test_broken_checkpoints.py::test_tensors_of_a_file_that_is_replaced_are_not_mixed
    test_file_identity.py::test_another_file_of_the_same_size_and_date_has_another
E.L6 a mistyped path
    checkpoints/test_hub.py::test_what_the_hub_does_not_give_is_an_error_at_once
E.L7 headers and cache files of any size
    checkpoints/test_hostile_checkpoints.py::test_a_header_of_many_tensors_is_read_or_refused_in_time
    test_cache.py::test_content_that_can_not_be_is_none
E.L8 threads beyond what the system has
    backends/cpu/test_extreme_numbers.py::test_more_threads_than_the_system_has_are_refused_at_load
    tagging/test_calls.py::test_impossible_arguments_of_load_are_refused
    test_environment.py::test_a_number_of_threads_that_can_not_be
E.L9 patches of any size
    integrations/test_torch_op_arguments.py::test_patches_fit
    backends/cpu/test_sanitizers.py::test_native_code_has_no_bad_access_and_no_undefined_behaviour
E.L10 int8 sums over long rows
    backends/cpu/test_extreme_numbers.py::test_sums_over_very_long_rows_don_t_wrap
E.L12 temporary files of a full disk
    test_cache.py::test_nothing_is_left_of_an_update_that_fails
"""
