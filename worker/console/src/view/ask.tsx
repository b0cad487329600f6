// Asking before something is done, and showing what came of it.

import { useEffect, useRef, useState } from "preact/hooks";
import { bytes, duration, pause, plural } from "../format";
import * as server from "../server";
import type { Haste, Reply, Request } from "../status";

export type Ask =
  | { what: "rotate"; worker: string | null; streams: number }
  | { what: "move"; session: string; name: string; from: string }
  | { what: "end"; session: string; name: string }
  | { what: "drain"; streams: number };

interface Words {
  title: string;
  text: string;
  verb: string;
  isGrave: boolean;
}

function wordsOf(ask: Ask): Words {
  switch (ask.what) {
    case "rotate":
      return {
        title: ask.worker === null ? "Rotate all processes" : `Rotate ${ask.worker}`,
        text: `${ask.worker === null ? "One after another, each process but the supervisor is" : "The process is"} replaced by a fresh one. ${plural(ask.streams, "stream")} move${ask.streams === 1 ? "s" : ""} without a break for publishers or viewers.`,
        verb: "Rotate",
        isGrave: false,
      };
    case "move":
      return {
        title: `Move ${ask.name}`,
        text: `The stream goes from ${ask.from} to another worker. Its publisher's connection and its outputs go on.`,
        verb: "Move",
        isGrave: false,
      };
    case "end":
      return {
        title: `End ${ask.name}`,
        text: "The publisher is disconnected; its recordings and playlists are finished. Most publishers connect again by themselves.",
        verb: "End it",
        isGrave: true,
      };
    case "drain":
      return {
        title: "Drain this node",
        text: `The server takes nothing new and leaves ${ask.streams === 0 ? "at once, for it has no streams" : `when the last of its ${plural(ask.streams, "stream")} has ended`}. This cannot be taken back.`,
        verb: "Drain",
        isGrave: true,
      };
  }
}

function requestOf(ask: Ask, haste: Haste, reason: string): Request {
  switch (ask.what) {
    case "rotate":
      return { request: "rotate", worker: ask.worker, reason, haste };
    case "move":
      return { request: "move", session: ask.session, haste };
    case "end":
      return { request: "end", session: ask.session };
    case "drain":
      return { request: "drain" };
  }
}

type Step = "asking" | "doing" | "over";

export function AskDialog({ ask, close, done }: { ask: Ask; close: () => void; done: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [step, setStep] = useState<Step>("asking");
  const [haste, setHaste] = useState<Haste>("scheduled");
  const [reason, setReason] = useState("");
  const [results, setResults] = useState<Result[]>([]);
  const words = wordsOf(ask);
  const hasHaste = ask.what === "rotate" || ask.what === "move";

  useEffect(() => dialog.current?.showModal(), []);

  const act = async (event: Event) => {
    event.preventDefault();
    setStep("doing");
    const tell = (result: Result) => setResults((before) => [...before, result]);
    try {
      await server.request(requestOf(ask, haste, reason.trim() || "console"), (reply) => tell(resultOf(ask, reply)));
    } catch (error) {
      tell({ isGood: false, text: error instanceof Error ? error.message : String(error) });
    }
    setStep("over");
    done();
  };

  return (
    <dialog ref={dialog} class="ask" aria-labelledby="ask-title" onClose={close}>
      <form onSubmit={act}>
        <h2 id="ask-title">{words.title}</h2>
        <p>{words.text}</p>
        {step === "asking" && ask.what === "rotate" && (
          <label class="line">Reason <input type="text" value={reason} maxLength={200} placeholder="console" onInput={(event) => setReason(event.currentTarget.value)} /></label>
        )}
        {step === "asking" && hasHaste && (
          <fieldset class="haste">
            <legend>Cut</legend>
            <label><input type="radio" name="haste" checked={haste === "scheduled"} onChange={() => setHaste("scheduled")} /> at the next keyframe that all rungs have anyway</label>
            <label><input type="radio" name="haste" checked={haste === "now"} onChange={() => setHaste("now")} /> now, after the frame in hand</label>
          </fieldset>
        )}
        <ul class="results" role="log" aria-label="What came of it">
          {results.map((result, index) => <li key={index} class={result.isGood ? "good" : "bad"}>{result.text}</li>)}
          {step === "doing" && <li class="faint">under way…</li>}
        </ul>
        <div class="buttons">
          {step === "asking" && <button type="submit" class={words.isGrave ? "grave" : "main"}>{words.verb}</button>}
          <button type="button" autofocus={words.isGrave} onClick={() => dialog.current?.close()}>{step === "asking" ? "Cancel" : "Close"}</button>
        </div>
      </form>
    </dialog>
  );
}

interface Result {
  isGood: boolean;
  text: string;
}

function resultOf(ask: Ask, reply: Reply): Result {
  switch (reply.reply) {
    case "recycled": {
      const moved = reply.moves.filter((move) => move.outcome === "done").length;
      const longest = Math.max(0, ...reply.moves.map((move) => move.pause_us));
      const lost = reply.moves.reduce((sum, move) => sum + move.frames_lost, 0);
      const moves = reply.moves.length === 0
        ? "no streams"
        : `${moved} of ${plural(reply.moves.length, "stream")} moved, longest pause ${pause(longest)}, ${plural(lost, "frame")} lost`;
      return {
        isGood: reply.outcome === "done",
        text: `${reply.worker}/g${reply.generation}: ${reply.outcome} in ${duration(reply.took_ms)}, ${moves}, ${bytes(reply.footprint_before_bytes)} given back`,
      };
    }
    case "moved":
      return {
        isGood: reply.outcome === "done",
        text: `${reply.name}: ${reply.from} → ${reply.to || "nowhere"}, ${reply.outcome}, pause ${pause(reply.pause_us)}, ${plural(reply.frames_lost, "frame")} lost`,
      };
    case "done":
      return { isGood: true, text: ask.what === "drain" ? "The server takes nothing new." : "Done." };
    case "refused":
      return { isGood: false, text: `Refused: ${reply.reason}` };
  }
}
