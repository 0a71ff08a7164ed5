"""Version gates: a command is done only once its version is active in the whole cluster.

A release that brings new commands can decode them at once and applies them only after an
`ActivateVersion` entry, which is proposed when every member runs that release. Until then every
member, old or new, gives the same answer.
"""

from __future__ import annotations

from typing import Final

from statemachine import commands
from statemachine.commands import ActivateVersion, Command
from statemachine.outcomes import Applied, Outcome, Rejected, RejectionCode, VersionActivated
from statemachine.state import MachineState

SUPPORTED_VERSION: Final = 1
"""The newest version whose commands this program can do."""

SINCE: Final[dict[type[Command], int]] = {
    commands.RecordEvent: 1,
    commands.SyncClock: 1,
    commands.JoinParticipant: 1,
    commands.LeaveParticipant: 1,
    commands.ChangeRouting: 1,
    commands.FireTimers: 1,
    commands.ActivateVersion: 1,
    commands.TrimEvents: 1,
    commands.CancelWait: 1,
    commands.TrimChanges: 1,
    commands.ReserveTimestamps: 1,
    commands.TickHybridClock: 1,
    commands.ObserveHybridTime: 1,
    commands.AdvanceSequence: 1,
    commands.AcquireLock: 1,
    commands.RenewLock: 1,
    commands.ReleaseLock: 1,
    commands.AbandonLock: 1,
    commands.AbandonAcquire: 1,
    commands.IncrementVersion: 1,
    commands.MergeVersion: 1,
    commands.WriteObject: 1,
    commands.TickVector: 1,
    commands.SendMessage: 1,
    commands.ReceiveMessage: 1,
    commands.ReportClock: 1,
    commands.CloseSyncRound: 1,
    commands.AcknowledgeSync: 1,
    commands.SetSyncInterval: 1,
    commands.ProposeData: 1,
    commands.VoteProposals: 1,
    commands.DecideProposal: 1,
    commands.BeginGlobal: 1,
    commands.RegisterBranch: 1,
    commands.ReportBranch: 1,
    commands.DecideGlobal: 1,
    commands.RunGlobal: 1,
    commands.ReportCalls: 1,
    commands.OperateGlobal: 1,
    commands.RecordRecoveries: 1,
    commands.LockRows: 1,
    commands.UnlockRows: 1,
    commands.PassFence: 1,
    commands.AbandonBranch: 1,
    commands.SetTransactionRetention: 1,
    commands.RecordAction: 1,
    commands.RegisterChannel: 1,
    commands.AttachChannel: 1,
    commands.DetachChannels: 1,
    commands.EndChannel: 1,
    commands.RecordCleaned: 1,
    commands.RecordSwept: 1,
    commands.RecordBranchAnswer: 1,
    commands.PrepareMessage: 1,
    commands.PutSubscriber: 1,
    commands.DeleteSubscriber: 1,
    commands.DeleteTopic: 1,
    commands.PrepareDtm: 1,
    commands.SubmitDtm: 1,
    commands.AbortDtm: 1,
    commands.StopDtm: 1,
    commands.HastenDtm: 1,
    commands.RegisterDtmBranch: 1,
    commands.RecordDtmProgress: 1,
    commands.HastenAllDtm: 1,
    commands.PutSagaDefinition: 1,
    commands.DeleteSagaDefinition: 1,
    commands.StartSaga: 1,
    commands.AcceptExecution: 1,
    commands.AdvanceExecution: 1,
    commands.ClaimExecution: 1,
    commands.FinishExecution: 1,
    commands.RenewExecutions: 1,
}
"""The version that brought each command. A command without a row here cannot be applied."""


def activate(state: MachineState, command: ActivateVersion) -> Outcome:
    """Switch to a newer version. An active or older one changes nothing: there is no way back."""
    if command.version > SUPPORTED_VERSION:
        return Rejected(
            RejectionCode.VERSION_UNKNOWN,
            f"Version {command.version} is newer than {SUPPORTED_VERSION}, the newest that this "
            "program knows. Upgrade every node first.",
        )
    state.active_version = max(state.active_version, command.version)
    return Applied(VersionActivated(version=state.active_version))


def not_active(command: Command, active_version: int) -> Rejected:
    """Return the answer to a command whose version is not active yet."""
    return Rejected(
        RejectionCode.VERSION_NOT_ACTIVE,
        f"{type(command).__name__} needs version {SINCE[type(command)]}; {active_version} is "
        "active. Activate it once every node is upgraded.",
    )
