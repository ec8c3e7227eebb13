"""Identities, organisations and the second step on PostgreSQL: what depends on the engine, from the ordinary tests."""

from tests.unit.people.test_authorities import (  # noqa: F401
    caregiver,
    hospital,
    known_operator,
    test_a_closed_organisation_is_offered_no_more_and_its_officer_has_nothing_to_do,
    test_a_role_taken_away_is_gone_at_once,
    test_granting_again_moves_the_last_day,
    test_holders_come_by_name_and_attributes_are_listed_once,
    test_the_copy_follows_the_keyholders_list,
    test_who_is_granted_a_role_holds_it_and_gets_its_key,
)
from tests.unit.people.test_identities import (  # noqa: F401
    test_a_new_number_lets_a_revoked_person_in_with_the_same_password_and_record,
    test_a_revoked_person_is_signed_out_everywhere_and_does_not_get_in_again,
    test_an_account_from_before_there_were_numbers_gets_one_at_its_next_sign_in,
    test_cancelling_ends_the_certificates_of_all_browsers,
    test_keys_of_another_ring_or_number_do_not_open,
    test_old_rows_of_certificates_go,
    test_the_keys_stay_when_only_the_recovery_code_is_left,
    test_the_next_sign_in_renews_it,
    test_two_first_sign_ins_at_once_agree_on_the_keys,
)
from tests.unit.people.test_second_factor import (  # noqa: F401
    named,
    test_a_code_is_taken_once_and_so_is_every_earlier_one,
    test_a_copied_passkey_is_noticed_by_its_counter,
    test_a_passkey_is_set_up_for_one_account_only,
    test_a_password_changed_meanwhile_ends_what_waited,
    test_password_and_passkey_let_in,
    test_rows_that_ran_out_are_swept_by_the_next_sign_in,
    test_ten_passkeys_are_enough,
    test_the_code_that_confirmed_the_app_is_used_up,
    test_what_waited_is_used_once_also_by_two_at_once,
    test_what_waits_opens_with_the_cookie_only,
)
