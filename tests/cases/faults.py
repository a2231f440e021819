"""Faults that were found once, each with the tests that fail if it comes back: those of ../shared/design/faults.md.

A line is a code and what was wrong; the lines below it, indented, are the tests, in files below tests/. A code is a
part of that page and its number there: A (trials; F1 to F9 are the annoyances without a number, T1 a trap), B (public
reports), C (accelerated models and fine-tunes), D (sanitizers and fuzzing, by topic) and E (security and reliability).
"""

from tests.cases.faults_of_models import HOSTILE, MODELS

TRIALS = """
A.A1 windows longer than the model's input are heard in full
    tagging/test_windows.py::test_a_window_longer_than_the_models_input_is_heard_in_full
    tagging/test_windows.py::test_what_stands_at_the_end_of_a_long_window_counts
    tagging/test_windows.py::test_each_member_of_an_ensemble_hears_the_whole_window
A.A2 MP3 without a count, joined MP3, chained Ogg
    audio/test_mp3.py::test_a_guess_of_the_length_is_no_length
    audio/test_mp3.py::test_joined_files_are_read_one_behind_the_other
    audio/test_ogg.py::test_every_link_of_a_chain_is_read
    audio/test_wav.py::test_a_size_that_wrapped_at_4_gib_is_seen_through
A.A3 inputs that share state
    audio/test_prefetch.py::test_one_buffer_that_is_filled_again
    audio/test_prefetch.py::test_members_of_one_tar
    audio/test_prefetch.py::test_one_file_object_forty_times
    audio/test_prefetch.py::test_files_that_are_closed_once_they_were_given
    tagging/test_stream.py::test_a_buffer_that_a_generator_fills_again
A.A4 files shorter than their header says
    audio/test_wav.py::test_a_file_that_is_cut_is_read_as_far_as_it_goes
    audio/test_mp3.py::test_half_a_file_is_half_as_long_and_said_to_be
    audio/test_ogg.py::test_a_cut_file_is_read_to_its_last_whole_page_and_said_to_be_cut
    audio/test_flac.py::test_a_cut_file_is_read_as_far_as_it_goes
    audio/test_flac.py::test_with_strict_damage_is_an_error
A.A5 weights that are NaN, logits that are not finite
    checkpoints/test_hostile_checkpoints.py::test_a_value_that_is_not_finite_is_named
    tagging/test_any_input.py::test_logits_that_are_not_finite_are_an_error
A.B1 a full disk has an exit status of its own
    commands/test_tag.py::test_a_full_disk_has_its_own_exit_status
    commands/test_main.py::test_an_unexpected_error_has_its_own_status
A.B2 what is before late damage is kept
    audio/test_mono.py::test_what_is_before_bad_samples_of_a_file_is_kept
    audio/test_prefetch.py::test_the_last_window_of_an_input_is_marked
A.B3 a generator that raises, and a live source
    tagging/test_stream.py::test_results_of_what_was_read_come_before_an_exception_of_the_inputs
    tagging/test_stream.py::test_a_result_comes_after_at_most_prefetch_inputs
A.B4 windows are printed as they are done
    commands/test_tag.py::test_a_window_is_printed_when_it_is_done
A.C1 Python started in the checkout
    test_packaging.py::test_a_source_folder_without_the_engine_says_where_to_go
A.C2 exceptions that were no AudioError
    audio/test_odd_files.py::test_a_file_is_heard_as_a_good_player_plays_it
    audio/test_bad_audio.py::test_closed_file_objects_and_bad_ones
    audio/test_prefetch.py::test_an_input_of_any_kind_is_read_or_an_error_of_its_own
    audio/test_kinds.py::test_a_batch_that_is_ragged
    tagging/test_any_input.py::test_odd_inputs_among_good_ones_are_error_records
A.C3 a model without a classifier
    tagging/test_calls.py::test_a_checkpoint_without_a_classifier_embeds_and_says_what_it_can_not
A.C4 good files that were refused
    audio/test_flac.py::test_an_unknown_length_is_no_length
    audio/test_flac.py::test_what_is_behind_damage_is_kept_in_its_place
    audio/test_mp3.py::test_what_is_behind_damage_is_read
    audio/test_wav.py::test_all_samples_are_read
    audio/test_descriptors.py::test_a_name_that_is_not_utf_8_is_opened
    audio/test_ffmpeg.py::test_formats
    audio/test_mono.py::test_bad_samples_behind_those_that_are_read_cost_nothing
A.C5 names in a narrow output encoding
    commands/test_tag.py::test_odd_names_in_every_encoding
A.C6 tracebacks of the command line
    commands/test_tag.py::test_messages_that_can_not_be_written_cost_no_result
    commands/test_tag.py::test_a_closed_standard_output
    commands/test_tag.py::test_standard_input_that_is_closed_or_raises
    commands/test_tag.py::test_descriptors_that_are_closed_are_no_file_of_the_process
    test_environment.py::test_a_number_of_threads_that_can_not_be
    commands/test_convert.py::test_a_folder_that_can_not_be_written
A.C7 forward() of odd tensors
    tagging/test_calls.py::test_forward_names_what_is_wrong
    tagging/test_calls.py::test_forward_takes_tensors_and_empty_batches
A.C8 exit while a daemon thread computes
    tagging/test_lifetime.py::test_a_process_ends_while_daemon_threads_are_in_calls
A.C9 a long M4A is decoded only as far as it is needed
    audio/test_ffmpeg.py::test_only_what_is_needed_is_decoded
A.D1 a hub that never answers, windows of a sample
    checkpoints/test_hub.py::test_what_the_hub_does_not_give_is_an_error_at_once
    checkpoints/test_hub.py::test_a_model_is_downloaded_once_and_then_at_hand
    audio/test_windows.py::test_a_window_or_hop_that_is_no_time_or_shorter_than_a_frame_is_refused
    commands/test_arguments.py::test_an_option_that_can_not_be_is_an_error_before_anything_is_read
A.E1 M4A without FFmpeg names the one extra
    audio/test_ffmpeg.py::test_without_pyav_the_extra_is_named
A.E2 an install without a compiler fails
    test_packaging.py::test_an_install_without_a_compiler_fails_unless_asked_otherwise
A.E3 max_duration is public
    tagging/test_calls.py::test_longer_inputs_than_max_duration_are_refused
    commands/test_tag.py::test_how_files_are_read_can_be_said
A.E4 extras that messages name
    test_packaging.py::test_extras_that_messages_and_documents_name_are_there
A.E5 misleading messages
    commands/test_tag.py::test_errors_of_standard_input_say_so
    commands/test_tag.py::test_a_long_file_is_a_warning_in_words_of_the_command_line
    commands/test_main.py::test_usage_errors_exit_with_2
    commands/test_tag.py::test_an_empty_name
    audio/test_descriptors.py::test_a_pipe_is_read_by_its_name
    engines/test_lazy.py::test_a_pickled_tagger_of_a_relative_path_loads_in_any_folder
A.F1 unknown words of on_error, windows of 0
    tagging/test_calls.py::test_impossible_options_are_refused_at_the_call
A.F2 thresholds that are NaN, devices that are none
    commands/test_main.py::test_usage_errors_exit_with_2
    tagging/test_calls.py::test_impossible_arguments_of_load_are_refused
A.F3 control characters in names
    commands/test_tag.py::test_odd_names_in_every_encoding
A.F4 each file has a row
    commands/test_tag.py::test_rows_can_be_joined_to_files
A.F5 truncation warns once, at the caller's line
    tagging/test_calls.py::test_inputs_that_are_cut_warn_once_a_line
    tagging/test_calls.py::test_warnings_name_the_line_of_the_caller
    commands/test_tag.py::test_one_warning_tells_of_all_files_that_are_longer
A.F6 C libraries that write
    audio/test_odd_files.py::test_libraries_write_nothing_of_their_own
    audio/test_bad_audio.py::test_formats_that_are_no_documented_ones
    commands/test_terminal.py::test_c_libraries_do_not_write_between_our_messages
A.F7 a clip longer than the window by a hair
    tagging/test_windows.py::test_a_clip_longer_by_a_frame_costs_one_window_and_no_warning
A.F8 dicts of datasets, ragged arrays, array.array, pairs
    audio/test_kinds.py::test_dicts_and_rows_of_datasets
    audio/test_kinds.py::test_a_batch_that_is_ragged
    audio/test_kinds.py::test_other_arrays_of_samples
    audio/test_kinds.py::test_pairs_of_an_array_and_its_rate_in_both_orders
A.F9 all labels, if asked for
    tagging/test_any_input.py::test_more_labels_than_there_are_is_all_of_them
A.T1 stereo of opposite phase
    audio/test_mono.py::test_channels_that_cancel_each_other_have_a_note
"""

REPORTS = """
B.1 FLAC of unknown length
    audio/test_flac.py::test_an_unknown_length_is_no_length
B.2 joined MP3
    audio/test_mp3.py::test_joined_files_are_read_one_behind_the_other
B.3 VBR MP3 without a count
    audio/test_mp3.py::test_a_guess_of_the_length_is_no_length
B.4 MP3 behind junk, however it comes
    audio/test_mp3.py::test_frames_are_found_behind_junk
    audio/test_odd_files.py::test_a_file_is_heard_as_a_good_player_plays_it
B.5 chained Ogg
    audio/test_ogg.py::test_every_link_of_a_chain_is_read
B.6 WAV with a data size of 0
    audio/test_wav.py::test_all_samples_are_read
B.7 WAV with a data size that is too small
    audio/test_wav.py::test_all_samples_are_read
B.8 WAV beyond 4 GiB
    audio/test_wav.py::test_a_size_that_wrapped_at_4_gib_is_seen_through
B.9 chunks padded to 4 bytes
    audio/test_wav.py::test_all_samples_are_read
B.10 RF64 never finished, BW64
    audio/test_wav.py::test_all_samples_are_read
B.11 a web page is no audio by any name
    audio/test_ffmpeg.py::test_a_web_page_is_no_audio_whatever_it_is_called
B.12 ADPCM has up to a block more
    audio/test_inputs.py::test_adpcm_has_at_most_a_block_more
B.13 libmpg123 writes nothing
    audio/test_mp3.py::test_what_is_behind_the_frames_is_no_sound_and_no_damage
B.14 cut and damaged FLAC ends in time
    audio/test_flac.py::test_a_cut_file_is_read_as_far_as_it_goes
    audio/test_flac.py::test_many_holes_end_in_time
    audio/test_flac.py::test_many_holes_are_scanned_once
B.15 names that are not UTF-8
    audio/test_descriptors.py::test_a_name_that_is_not_utf_8_is_opened
    commands/test_tag.py::test_odd_names_in_every_encoding
B.16 pipes by name
    audio/test_descriptors.py::test_a_pipe_is_read_by_its_name
B.17 windows are printed as they are done
    commands/test_tag.py::test_a_window_is_printed_when_it_is_done
B.18 no home folder
    test_cache.py::test_a_user_without_a_home_has_no_cache
    checkpoints/test_hub.py::test_paths_that_can_not_be
B.19 {"bytes", "path"} of datasets
    audio/test_kinds.py::test_dicts_and_rows_of_datasets
B.20 (rate, array) and (array, rate)
    audio/test_kinds.py::test_pairs_of_an_array_and_its_rate_in_both_orders
B.21 arrays and columns of paths
    audio/test_kinds.py::test_arrays_and_columns_of_paths_are_batches
B.22 a stereo tensor is no two clips
    audio/test_kinds.py::test_a_stereo_clip_is_never_two_clips
    audio/test_kinds.py::test_a_batch_of_several_channels_names_the_dict
B.23 asynchronous and odd file objects
    audio/test_descriptors.py::test_odd_file_objects
B.24 a file object that fails midway
    audio/test_descriptors.py::test_odd_file_objects
B.25 decoders are asked for what is needed
    audio/test_inputs.py::test_a_decoder_is_asked_for_what_is_needed_of_it_only
    audio/test_ffmpeg.py::test_only_what_is_needed_is_decoded
B.26 one line for a decoder that is missing, files without an audio stream
    audio/test_ffmpeg.py::test_without_pyav_the_extra_is_named
    audio/test_ffmpeg.py::test_no_audio_stream_in_it
B.27 forward() of tensors and lists
    tagging/test_calls.py::test_forward_names_what_is_wrong
    tagging/test_calls.py::test_forward_takes_tensors_and_empty_batches
    audio/test_kinds.py::test_other_arrays_of_samples
B.28 opposite phase, one channel, many channels
    audio/test_mono.py::test_channels_that_cancel_each_other_have_a_note
    audio/test_mono.py::test_one_channel_of_several
    audio/test_kinds.py::test_many_channels_need_many_samples
B.29 prefixes of torch.compile, Lightning and the Trainer
    checkpoints/test_wrappers.py::test_prefixes_of_all_names_are_stripped
    checkpoints/test_wrappers.py::test_a_lightning_checkpoint_is_read
B.30 adapters
    checkpoints/test_placeholders.py::test_adapter_folders
B.31 Git LFS pointers and web pages
    checkpoints/test_placeholders.py::test_pointers_and_pages_in_a_folder
    checkpoints/test_placeholders.py::test_pointers_and_pages_as_files
B.32 labels and normalisation that are assumed
    models/test_assumed.py::test_a_folder_without_normalisation_has_that_of_transformers
    models/test_assumed.py::test_a_bare_file_names_all_that_is_assumed
B.33 config and preprocessor that disagree, SSAST
    models/ast/test_geometry.py::test_configs_that_contradict
    checkpoints/test_wrappers.py::test_an_ssast_is_named
B.34 a forward that is wrapped already
    integrations/test_accelerated_models.py::test_a_wrapped_forward_is_given_back
B.35 clips under a frame
    tagging/test_any_input.py::test_clips_shorter_than_a_frame_or_two_are_tagged
B.36 top_k above the number of labels
    tagging/test_any_input.py::test_more_labels_than_there_are_is_all_of_them
    tagging/test_calls.py::test_impossible_options_are_refused_at_the_call
B.37 sigmoid and softmax
    test_scores.py::test_activation_of
B.38 silence and constants
    tagging/test_any_input.py::test_silence_and_a_constant_have_finite_scores
B.39 empty files
    tagging/test_any_input.py::test_empty_files_end_no_stream
B.40 rates of all recorders
    tagging/test_any_input.py::test_rates_of_all_recorders
B.41 no more threads than the process may keep busy (its cgroup's quota can't be set in a test)
    backends/cpu/test_threads.py::test_threads_follow_the_affinity_mask
    backends/cpu/test_threads.py::test_helpers_sleep_when_there_is_nothing_to_do
B.42 calls after a fork
    tagging/test_tagger.py::test_a_forked_child_can_tag_while_the_parent_is_busy
    backends/cpu/test_threads.py::test_a_child_forked_in_the_middle_of_a_job_has_a_pool_of_its_own
B.43 old processors
    backends/cpu/test_ops.py::test_error_at_most_twice_that_of_roundings
    backends/cpu/test_ops.py::test_tiers_are_named_and_chosen
B.44 offline
    checkpoints/test_hub.py::test_what_the_hub_does_not_give_is_an_error_at_once
B.45 embeddings alone and in a batch
    tagging/test_any_input.py::test_embeddings_are_the_same_alone_and_in_any_batch
B.46 FLAC named .wav, SPHERE files
    audio/test_odd_files.py::test_a_file_is_heard_as_a_good_player_plays_it
    audio/test_bad_audio.py::test_formats_that_are_no_documented_ones
B.47 id2label with keys of any kind, gaps and nulls
    test_labels.py::test_id2label_keys_may_be_ints_or_strings_in_any_order
    test_labels.py::test_id2label_refused
B.48 block after block
    audio/test_inputs.py::test_block_after_block_is_what_one_read_gives
B.49 memory over thousands of files
    tagging/test_stream.py::test_memory_and_descriptors_do_not_grow_over_thousands_of_files
"""

# The caller's own contract, which the audit asks to document: arrays stay as they are during a call.
NO_FAULTS = ("E.L11",)


def table() -> dict[str, list[str]]:
    """Code -> "file::test" of each test that proves it."""
    tests: dict[str, list[str]] = {}
    code = ""
    for line in "".join((TRIALS, REPORTS, MODELS, HOSTILE)).splitlines():
        if line.startswith(" "):
            tests[code].append(line.strip())
        elif line:
            code = line.split()[0]
            assert code not in tests, code
            tests[code] = []
    return tests
