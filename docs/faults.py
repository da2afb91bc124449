"""Write faults.md: what goes wrong in existing code, and the tests that show it right here.

`python docs/faults.py`
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HEAD = """# Faults, and the tests that rule them out

Most code for SAM fails without a word: an update 65,536 times too big, momentum that is lost at a
resume, weights that stay perturbed, replicas that drift. Every such fault that was found in public
code is a line here, with the tests of `tests/` that show it right or refused
(`python docs/faults.py` writes this page; `tests/test_faults.py` checks that each test is there). A
test marked (gpu) is skipped, saying so, where there is no CUDA device.
"""


@dataclass(frozen=True)
class Fault:
    """What must hold, where it does not, and what shows that it does here."""

    rule: str
    seen: str
    tests: tuple[str, ...]
    note: str = ""


def fault(rule: str, seen: str, *tests: str, note: str = "") -> Fault:
    """Return a line of the table."""
    return Fault(rule, seen, tests, note)


STATE = [
    fault(
        "Save, load, continue is the uninterrupted run bit for bit, for every member and base "
        "optimizer; no copy of the weights in the state",
        "davda54, pytorch_optimizer, Composer, ASAM, GSAM, WSAM",
        "test_family::test_resuming_changes_nothing",
        "test_family::test_a_state_holds_no_copy_of_the_weights",
        "test_optimizer::test_resuming_changes_nothing",
        "test_optimizer::test_a_state_holds_momentum_and_no_weights",
    ),
    fault(
        "After a load, wrapper and base share their groups: a scheduler still acts",
        "tourdeml, pytorch_optimizer's GSAM, Composer",
        "test_optimizer::test_a_scheduler_still_acts_after_resuming",
        "test_optimizer::test_groups_state_and_defaults_are_the_base_optimizers",
    ),
    fault(
        "rho, alpha, m and schedules are in the state",
        "GSAM, GAM, SAGM, tf-keras",
        "test_backward::test_a_state_of_another_run_is_loaded_with_a_warning",
    ),
    fault(
        "Weights come back bit for bit, at the same address, over 100 steps",
        "davda54, SAM-ON, pytorch_optimizer, XSAM; by subtraction in Composer, WSAM, VaSSO",
        "test_family::test_the_weights_are_bit_for_bit_what_they_were",
        "test_backward::test_the_weights_stay_where_they_are_in_memory_over_a_hundred_steps",
        "test_optimizer::test_weights_stay_where_they_are_in_memory",
    ),
    fault(
        "A parameter with a gradient in one of the passes only is restored and updated rightly",
        "davda54, SAM-ON, sam-hessian, understanding-sam",
        "test_family::test_parameters_without_a_gradient_behave_as_in_torch",
        "test_optimizer::test_a_parameter_without_a_gradient_in_the_second_pass_is_restored",
    ),
    fault(
        "No displacement or cache of an earlier step is ever applied",
        "Composer, GAM, davda54, optax",
        "test_family::test_a_step_that_raised_leaves_no_trace_in_the_next_one",
        "test_zoo::test_what_has_no_gradient_in_this_step_is_not_displaced_by_an_earlier_one",
    ),
    fault(
        "An exception in any pass leaves weights, statistics and the mode as they were",
        "all; an ESAM port stays in eval",
        "test_family::test_a_loss_that_raises_in_any_pass_changes_nothing",
        "test_buffers::test_buffers_are_as_the_first_pass_left_them_when_a_pass_raises",
        "test_optimizer::test_a_raising_closure_leaves_everything_as_it_was",
        "test_replay::test_a_replay_that_raises_leaves_everything_as_it_was",
    ),
    fault(
        "Between steps weights are unperturbed; with a learning rate of 0 they never move",
        "MSAM, pytorch_optimizer's BSAM",
        "test_zoo::test_with_a_learning_rate_of_zero_the_weights_of_momentum_sam_never_move",
    ),
    fault(
        "Under a schedule of rho, what is taken off is what was put on",
        "MSAM with SGD",
        "test_faults::test_under_a_schedule_of_the_radius_the_weights_come_back",
    ),
]
NUMBERS = [
    fault(
        "A zero gradient is no NaN in float64, float32, bfloat16, float16",
        "davda54, moskomule, optax, google/sam, gnp",
        "test_family::test_a_zero_gradient_gives_zero",
    ),
    fault(
        "A non-finite gradient in any pass: weights, state and memory untouched, no word from the "
        "host",
        "davda54; the OLMo fork returns before zeroing",
        "test_family::test_a_non_finite_gradient_makes_the_direction_non_finite_and_nothing_else",
        "test_backward::test_an_overflow_in_either_pass_skips_the_step_and_halves_the_scale_once",
        "test_zoo::test_a_gradient_that_is_not_finite_does_not_enter_a_running_mean",
        "test_precision::test_no_step_asks_for_a_value",
    ),
    fault(
        "The displacement is rho long in its metric, with masks, groups and devices",
        "pytorch_optimizer, ZSharp, FSDP forks",
        "test_laws::test_the_displacement_has_the_length_rho_in_the_norm_chosen",
        "test_laws::test_the_adaptive_displacement_has_the_length_rho_in_its_own_metric",
        "test_laws::test_groups_with_radii_of_their_own_share_one_norm",
        "test_zoo::test_the_radius_is_that_of_all_parameters_together_after_the_mask",
        "test_precision::test_parts_on_several_devices_have_one_norm",
    ),
    fault(
        "Norms are accumulated in float32 for half precision",
        "most",
        "test_vector::test_sums_over_half_precision_neither_overflow_nor_stall",
        "test_precision::test_a_norm_that_half_precision_cannot_hold_is_right",
    ),
    fault(
        "ASAM is the paper's, with eta; which tensors are scaled is an explicit choice",
        "all ports",
        "test_perturb::test_adaptive_is_the_formula",
        "test_perturb::test_a_weight_of_zero_moves_with_eta_and_without_it_stays",
    ),
    fault(
        "The adaptive metric is that of the weights",
        "S2-SAM, ZSharp, big_vision",
        "test_zoo::test_the_adaptive_metric_of_s2_sam_is_that_of_the_weights",
        "test_laws::test_adaptive_sam_does_not_see_the_rescaling_of_a_layer",
    ),
    fault(
        "Friendly SAM takes the old mean off, and feeds the new one with the whole gradient",
        "pytorch_optimizer",
        "test_zoo::test_friendly_sam_takes_the_old_mean_off_and_feeds_the_new_one_with_the_whole_gradient",
    ),
    fault(
        "LookSAM: k steps cost k + 1 gradients, its direction is global, none is counted twice",
        "pytorch_optimizer, zij",
        "test_zoo::test_looksam_costs_one_gradient_more_every_so_many_steps",
        "test_zoo::test_looksam_keeps_a_direction_of_unit_length_at_right_angles_to_the_whole_gradient",
    ),
    fault(
        "Noise has the deviation of its formula, and is undone",
        "pytorch_optimizer's BSAM",
        "test_perturb::test_noise_is_in_proportion_to_the_filters_and_to_the_radius",
        "test_family::test_the_weights_are_bit_for_bit_what_they_were",
        note="bSAM itself is no member: see [members](members.md)",
    ),
    fault(
        "An arc between parallel or opposite gradients is no NaN",
        "XSAM",
        "test_zoo::test_an_arc_between_parallel_and_opposite_vectors_is_no_nan",
    ),
    fault(
        "What is not used cannot contaminate: 0 times NaN is 0",
        "optax, sam-hessian",
        "test_vector::test_a_multiple_by_zero_is_zero_even_of_what_is_not_finite",
        "test_family::test_radius_zero_is_the_base_optimizer_bit_for_bit",
    ),
    fault(
        "Every member is its formula for 100 steps in float64",
        "tested by nobody",
        "test_oracles::test_every_step_agrees_with_the_loop_written_by_hand",
    ),
    fault(
        "A loss of exactly 0 still updates",
        "Composer",
        "test_backward::test_a_loss_of_exactly_zero_still_gives_a_direction",
        "test_optimizer::test_a_loss_of_zero_still_updates",
    ),
    fault(
        "A choice of examples is never empty, and as large on all ranks",
        "ESAM",
        "test_losses::test_the_choice_is_never_empty",
        "test_losses::test_examples_of_equal_loss_are_chosen_in_number",
    ),
    fault(
        "What the user froze stays frozen",
        "ESAM",
        "test_parameters::test_frozen_parameters_stay_frozen_without_a_gradient",
    ),
]
PASSES = [
    fault(
        "Buffers move once a step, from the first pass; nesting is safe",
        "ASAM, understanding-sam, ESAM, SAM-ON, WSAM, bayesian-sam",
        "test_buffers::test_buffers_move_once_per_step_as_in_a_plain_one",
        "test_buffers::test_statistics_never_see_the_displaced_weights",
        "test_buffers::test_statistics_move_again_after_a_step",
        "test_buffers::test_holding_twice_is_safe",
        "test_buffers::test_a_step_within_a_step_leaves_the_statistics_of_both_moved_once",
    ),
    fault(
        "Both passes draw the same dropout masks, or others on request",
        "all PyTorch code",
        "test_noise::test_every_pass_draws_the_same_masks",
        "test_noise::test_every_pass_draws_masks_of_its_own_on_request",
    ),
    fault(
        "Both passes run in training mode, with the whole loss",
        "tf-keras",
        "test_faults::test_both_passes_are_in_training_mode_and_see_the_whole_loss",
    ),
    fault(
        "m-SAM averages its groups",
        "tf-keras",
        "test_groups::test_the_direction_is_the_mean_over_the_groups_weighted_by_size",
    ),
    fault(
        "`step(closure)` works alone, and returns the loss at the weights",
        "davda54, pytorch_optimizer, F-SAM",
        "test_optimizer::test_a_step_alone_runs_both_passes_and_returns_the_clean_loss",
        "test_optimizer::test_a_closure_may_return_a_float",
    ),
    fault(
        "Loss and metrics are those of the clean point, counted once",
        "google/sam, tf-keras",
        "test_laws::test_the_loss_that_is_returned_is_the_one_at_the_weights",
        "test_integrations::test_lightning_is_the_plain_loop",
    ),
]
TRAINING = [
    fault(
        "float16 with a GradScaler and clipping is float32 up to rounding; an overflow in either "
        "pass skips",
        "davda54, understanding-sam, GSAM",
        "test_backward::test_clipped_steps_with_a_loss_scale_are_those_without",
        "test_precision::test_training_with_autocast_follows_that_without",
        "test_precision::test_training_with_a_loss_scale_on_the_device_follows_float32",
    ),
    fault(
        "Accumulation in one step is the large batch, and is not m-SAM",
        "davda54, F-SAM, GSAM",
        "test_optimizer::test_micro_batches_within_the_closure_are_one_batch",
        "test_replay::test_accumulation_has_one_displacement_from_the_whole_gradient",
        "test_groups::test_groups_within_micro_batches_are_not_the_micro_batches",
    ),
    fault(
        "DDP: one reduction in `replica`, forward and backward unreduced; which displacement is a "
        "choice",
        "davda54's tip, WSAM, pytorch_optimizer",
        "test_distributed::replica_is_the_mean_of_what_each_rank_would_do_alone",
        "test_distributed::accumulation_under_no_sync_is_reduced_with_the_step_after_it",
    ),
    fault(
        "Decompositions are those of one process at the same m",
        "GSAM, GAM, SAGM",
        "test_distributed::global_is_the_whole_batch_for_every_rule",
        "test_distributed::groups_of_m_add_up_over_the_ranks",
    ),
    fault(
        "FSDP2: norms are those of the whole vectors",
        "Composer, the OLMo fork",
        "test_distributed::products_of_sharded_vectors_are_whole",
        "test_distributed::sharded_is_the_whole_batch_for_every_rule",
    ),
    fault(
        "Unused parameters, and find_unused_parameters",
        "algorithmic-efficiency",
        "test_distributed::global_is_the_whole_batch_under_every_option_of_ddp",
        "test_distributed::parameters_that_nobody_uses_get_no_gradient",
        "test_distributed::parameters_that_one_rank_does_not_use_get_the_other_ranks_gradient",
    ),
    fault(
        "A compiled model is compiled once; no step waits for the host; a step can be captured",
        "davda54, ESAM, F-SAM, MSAM, Composer, XSAM",
        "test_backward::test_a_compiled_model_is_compiled_once",
        "test_precision::test_no_step_asks_for_a_value",
        "test_precision::test_the_host_never_waits_for_the_device",
        "test_precision::test_a_whole_step_can_be_captured_in_a_graph",
        "test_precision::test_a_model_that_is_compiled_for_the_device_gives_the_same_gradients",
        "test_precision::test_a_step_that_is_compiled_for_the_device_gives_the_same_gradients",
    ),
    fault(
        "Clipping acts on the direction only",
        "WSAM",
        "test_replay::test_clipping_that_only_the_first_pass_would_see_is_refused_and_max_norm_is_right",
        "test_optimizer::test_the_norm_of_the_direction_can_be_clipped",
    ),
]
SURFACE = [
    fault(
        "A radius for each group of parameters, and several groups everywhere",
        "moskomule, MSAM, XSAM, F-SAM, ASAM",
        "test_parameters::test_every_group_moves_by_its_own_radius_within_one_norm",
        "test_parameters::test_a_group_may_have_a_schedule_or_a_tensor",
    ),
    fault(
        "Any base optimizer: Nesterov, AdamW, Adagrad, Muon, one by hand",
        "sam-hessian, MSAM",
        "test_oracles::test_every_step_agrees_with_the_loop_written_by_hand",
        "test_faults::test_any_optimizer_steps_along_the_direction",
    ),
    fault(
        "Numbers and switches of the command line are read as such",
        "davda54's example, sam-hessian",
        "test_cli::test_the_doctor_sees_a_model_of_ones_own",
        "test_cli::test_an_option_with_a_value_of_the_wrong_kind_ends_with_code_2",
    ),
    fault(
        "Layers are chosen by their kind, never by a part of their name",
        "ASAM, SAM-ON",
        "test_zoo::test_groups_choose_by_the_kind_of_module",
        "test_zoo::test_sam_on_the_norms_alone_moves_nothing_else_and_takes_their_norm",
    ),
    fault(
        "Examples in the documentation run; gradients are zeroed between passes",
        "WSAM, ESAM, GSAM, pytorch_optimizer",
        "test_docs::test_the_code_on_a_page_runs",
        "test_docs::test_an_example_runs",
        "test_optimizer::test_a_closure_that_adds_to_old_gradients_is_refused",
    ),
    fault(
        "Models are chosen on validation data",
        "SANER, understanding-sam",
        "test_study::test_the_radius_with_the_best_mean_validation_accuracy_is_chosen",
    ),
    fault(
        "Masks take tensors above 16 million numbers",
        "ZSharp",
        "test_zoo::test_masks_take_tensors_of_more_than_sixteen_million_numbers",
    ),
    fault(
        "A stateless base does not double the cost",
        "zij's LookSAM",
        "test_zoo::test_looksam_costs_one_gradient_more_every_so_many_steps",
        "test_zoo::test_one_gradient_is_all_that_the_cheap_members_take",
    ),
    fault(
        "Little time beyond the passes",
        "F-SAM",
        "test_zoo::test_one_gradient_is_all_that_the_cheap_members_take",
        note="time is no test: `benchmarks/step_overhead.py` holds the figures",
    ),
    fault(
        "Sparse gradients are refused; absent ones and None are as in torch",
        "all; tf-keras crashes",
        "test_backward::test_a_bad_loss_is_refused_and_nothing_changes",
        "test_backward::test_gradients_set_to_zero_instead_of_none_are_added_to",
    ),
    fault(
        "Weight decay in the ascent is explicit; a factor says its sense",
        "all; SANER",
        "test_laws::test_weight_decay_in_the_ascent_is_that_of_a_loss_with_the_penalty",
        "test_regions::test_weight_decay_of_the_optimizer_changes_neither_displacement_nor_regions",
        "test_published_variants::test_saner_is_the_row_with_one_minus_its_strength",
    ),
    fault(
        "One radius never silently overrides another; each setting has its own name",
        "the OLMo fork, a Fisher-SAM port",
        "test_rule::test_a_group_keeps_its_own_radius",
        "test_rule::test_a_printed_rule_teaches_its_parts",
    ),
    fault(
        "Peak memory is as many buffers as documented; what does not move is not copied",
        "davda54, SAM-ON, sam-hessian",
        "test_memory::test_plain_sam_needs_one_buffer_beyond_the_gradients",
        "test_memory::test_what_is_not_displaced_is_not_copied",
        "test_zoo::test_these_keep_as_many_buffers_as_they_say",
        "test_precision::test_plain_sam_on_the_device_needs_the_copy_and_one_gradient",
    ),
    fault(
        "A schedule without warm-up is defined at step 0",
        "google/sam",
        "test_schedule::test_a_schedule_of_no_steps_is_at_its_end_from_the_beginning",
    ),
    fault(
        "One reduction in one piece, never one for each tensor",
        "GSAM, WSAM, GAM",
        "test_distributed::replica_is_the_mean_of_what_each_rank_would_do_alone",
    ),
    fault(
        "A norm is one kernel for all tensors",
        "davda54, moskomule, sam-hessian",
        "test_faults::test_a_norm_is_one_kernel_for_all_tensors",
    ),
]
COPIED = [
    fault(
        "`state_dict` keeps the base optimizer's state",
        "davda54",
        "test_optimizer::test_a_state_holds_momentum_and_no_weights",
    ),
    fault(
        "A parameter without a gradient in the second pass does not stay perturbed",
        "davda54",
        "test_optimizer::test_a_parameter_without_a_gradient_in_the_second_pass_is_restored",
    ),
    fault(
        "`p.data` is never swapped",
        "davda54",
        "test_optimizer::test_weights_stay_where_they_are_in_memory",
    ),
    fault(
        "Where `scaler.step` skips, the weights are the old ones, and finite",
        "davda54",
        "test_backward::test_an_overflow_in_either_pass_skips_the_step_and_halves_the_scale_once",
    ),
    fault(
        "No warning about the order of scheduler and optimizer",
        "davda54",
        "test_optimizer::test_a_scheduler_changes_the_base_and_does_not_warn",
        "test_replay::test_resuming_changes_nothing_and_schedulers_do_not_warn",
    ),
    fault(
        "The contract of LBFGS: the closure may be called often, and gradients need not be there",
        "davda54, pytorch_optimizer, samformer",
        "test_optimizer::test_a_step_alone_runs_both_passes_and_returns_the_clean_loss",
        "test_optimizer::test_a_closure_that_breaks_the_contract_is_refused",
    ),
    fault(
        "Hooks before and after a step are called once",
        "Lightning with a closure called twice",
        "test_optimizer::test_hooks_are_called_once_per_step",
    ),
]
FRAMEWORKS = [
    fault(
        "Lightning: closures are the plain loop; accumulation is replayed, or refused",
        "davda54, Lightning #17650",
        "test_integrations::test_lightning_is_the_plain_loop",
        "test_integrations::test_lightning_accumulates_with_one_displacement",
        "test_integrations::test_lightning_is_refused_where_its_closures_accumulate",
        "test_integrations::test_lightning_clipping_is_refused_where_it_would_miss_the_direction",
    ),
    fault(
        "Hugging Face Trainer: no closure; accumulation, clipping, label smoothing",
        "no path in any library",
        "test_integrations::test_the_hugging_face_trainer_is_the_plain_loop",
        "test_integrations::test_the_hugging_face_trainer_clips_by_max_norm",
        "test_integrations::test_hugging_faces_label_smoothing_is_refused",
    ),
    fault(
        "Accelerate: a closure handed to a GradScaler is refused (elsewhere 65,536 times too big)",
        "any closure-based SAM",
        "test_optimizer::test_a_closure_handed_to_a_scaler_is_refused",
        "test_replay::test_a_scaler_that_steps_is_refused",
    ),
    fault(
        "Accelerate: `accumulate(4)` runs every micro-batch",
        "any closure-based SAM",
        "test_integrations::test_accelerate_replays",
        "test_integrations::test_accelerate_owns_the_backward_pass",
    ),
    fault(
        "timm: a task is replayed; EMA and schedules are as ever",
        "timm #1366",
        "test_integrations::test_timm_makes_the_base_optimizer_and_replays_its_task",
    ),
    fault(
        "skorch: its step function is the closure",
        "skorch #785",
        "test_integrations::test_skorch_is_the_plain_loop",
    ),
    fault(
        "DeepSpeed is refused, and so are pipelines",
        "gradients lost without a word, DeepSpeed #7665",
        "test_owners::test_a_model_that_owns_its_passes_is_refused",
        "test_owners::test_an_optimizer_that_owns_the_backward_pass_is_refused",
        "test_owners::test_parameters_that_zero_has_cut_are_refused",
        "test_owners::test_the_backward_of_an_accelerator_with_deepspeed_is_refused",
        "test_owners::test_the_schedule_of_a_pipeline_is_no_loss",
    ),
    fault(
        "Wrapper and base have the very same group and state objects",
        "Composer #3259",
        "test_optimizer::test_groups_state_and_defaults_are_the_base_optimizers",
    ),
    fault(
        "Losses computed outside the replayed module are refused",
        "replay by itself",
        "test_replay::test_a_loss_computed_outside_the_module_is_refused",
    ),
]
PRECISION = [
    fault(
        "One scale for both passes, and one `update`: growth is counted once",
        "recipes that update after each pass",
        "test_backward::test_an_overflow_in_either_pass_skips_the_step_and_halves_the_scale_once",
        "test_backward::test_the_scale_settles_where_half_precision_holds_it",
    ),
    fault(
        "The rule sees unscaled gradients",
        "ASAM, penalties and logs under a scale",
        "test_family::test_a_loss_scale_multiplies_the_direction_and_nothing_else",
        "test_observe::test_observers_see_unscaled_gradients",
    ),
    fault(
        "An overflow on one rank is one on all",
        "unsynchronised first passes",
        "test_distributed::a_gradient_that_is_not_finite_on_one_rank_is_so_on_all",
    ),
    fault(
        "The second pass is under the autocast of the first, and sees the displaced weights",
        "caches of casts by address",
        "test_replay::test_autocast_is_as_it_was_at_the_call",
        "test_backward::test_autocast_sees_the_restored_weights_after_a_step",
    ),
    fault(
        "bfloat16 weights that swallow a displacement are told, with the share that did not move",
        "every library",
        "test_rounding::test_who_loses_much_of_a_displacement_is_told_the_share_once",
        "test_doctor::test_weights_in_bfloat16_swallow_the_displacement",
        "test_rounding::test_rounding_by_chance_is_right_in_the_mean",
    ),
    fault(
        "A radius may be a tensor, so that a change does not compile anew",
        "any number that a compiler bakes in",
        "test_laws::test_a_radius_that_is_a_tensor_is_the_number_that_it_holds",
    ),
]
PARALLEL = [
    fault(
        "DDP, `global`: the whole batch in one process",
        "DDP with no_sync copied from a tip",
        "test_distributed::global_is_the_whole_batch_under_every_option_of_ddp",
    ),
    fault(
        "DDP, `replica`: 1,000 steps of every member leave the replicas equal bit for bit",
        "restoring by subtraction: 0.7 % apart in bfloat16 after 300 steps",
        "test_replicas::test_a_thousand_steps_leave_the_replicas_equal_bit_for_bit",
        "test_distributed::replicas_stay_equal_bit_for_bit",
    ),
    fault(
        "FSDP2: a pass that is not reduced is refused, not doubled",
        "set_requires_gradient_sync(False)",
        "test_distributed::a_pass_that_is_not_reduced_is_refused",
    ),
    fault(
        "FSDP2: a displacement for each rank is refused",
        "norms taken per shard",
        "test_distributed::replica_is_refused_where_it_cannot_be",
    ),
    fault(
        "The older FSDP is refused",
        "hidden parameters",
        "test_distributed::the_older_fsdp_is_refused",
    ),
    fault(
        "Replay on several processes is refused",
        "replay by itself",
        "test_replay::test_several_processes_are_refused",
    ),
    fault(
        "Every rank asks for as many gradients, so that none waits for ever",
        "coins tossed on each rank",
        "test_distributed::every_rank_asks_the_same_questions",
    ),
]
FAULTS = {
    "State and restoration": STATE,
    "Numbers": NUMBERS,
    "Passes, buffers, randomness": PASSES,
    "Precision, accumulation, distribution": TRAINING,
    "Interface": SURFACE,
    "The most copied code": COPIED,
    "Frameworks": FRAMEWORKS,
    "Mixed and low precision": PRECISION,
    "Several processes": PARALLEL,
}


def on_gpu(test: str) -> str:
    """Return a mark for a test that needs a CUDA device."""
    file, _, name = test.partition("::")
    paths = (Path(__file__).parents[1] / "tests").rglob(f"{file}.py")
    source = "".join(path.read_text(encoding="utf-8") for path in paths)
    decorators = source.partition(f"def {name}(")[0].rpartition("\n\n")[2]
    return " (gpu)" if "@gpu" in decorators else ""


def page() -> str:
    """Return the page."""
    lines, number = [HEAD], 0
    for title, faults in FAULTS.items():
        lines += [
            f"## {title}\n",
            "| | what must hold | where it does not | tests |",
            "|---|---|---|---|",
        ]
        for one in faults:
            number += 1
            shown = ", ".join(f"`{test}`{on_gpu(test)}" for test in one.tests)
            shown += one.note and f"; {one.note}"
            lines.append(f"| {number} | {one.rule} | {one.seen} | {shown} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
