package smoke

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/orrery-dev/orrery/internal/check"
	"github.com/orrery-dev/orrery/internal/kube"
)

// Names of the nack component; see infra/k8s/base/nack.
const (
	nackNamespace = "platform"
	nackAPI       = "jetstream.nats.io/v1beta2"
	nackKind      = "Stream"
)

// nackMends is longer than the controller's --sync-interval.
const nackMends = 60 * time.Second

// nack: a stream that is declared as an object is made, is put back when somebody changes it in
// NATS, and goes with the object.
func nack(ctx context.Context, env Env) check.Result {
	target, err := natsTargetOf(ctx, env)
	if err != nil {
		return check.Wait("%v", err)
	}
	connection, err := connect(ctx, target.url, append(target.options, target.auth...))
	if err != nil {
		return check.Wait("%v", err)
	}
	defer connection.Close()
	took, err := declaredStream(ctx, env, connection)
	if err != nil {
		return check.Fail(err)
	}
	return check.OK("a declared stream was made, mended %.1f s after somebody changed it, and went with its object", took.Seconds())
}

func declaredStream(ctx context.Context, env Env, connection *nats.Conn) (mended time.Duration, err error) {
	js, err := jetstream.New(connection)
	if err != nil {
		return 0, err
	}
	sweepStreams(ctx, js)
	name := streamPrefix + token(4)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": nackAPI, "kind": nackKind,
		"metadata": map[string]any{"name": name, "namespace": nackNamespace, "labels": map[string]any{label: "nack"}},
		"spec": map[string]any{
			"name": name, "description": "made by orrery verify; deleted at its end", "subjects": []any{name + ".>"},
			"storage": "memory", "replicas": int64(1), "maxMsgs": int64(7),
		},
	}}
	if err := env.Client.Create(ctx, object.DeepCopy()); err != nil {
		return 0, fmt.Errorf("declare the stream %s: %w", name, err)
	}
	remove := func(ctx context.Context) error {
		err := env.Client.Delete(ctx, nackAPI, nackKind, nackNamespace, name, -1)
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return err
	}
	gone := false
	defer func() {
		if !gone {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attempt)
			defer cancel()
			err = errors.Join(err, remove(ctx))
		}
	}()
	isDeclared := func() error {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return err
		}
		if most := stream.CachedInfo().Config.MaxMsgs; most != 7 {
			return fmt.Errorf("it keeps %d messages, declared are 7", most)
		}
		return nil
	}
	if err := until(ctx, nackMends, isDeclared); err != nil {
		return 0, fmt.Errorf("a stream that is declared as an object is not made: %w%s", err, nackState(ctx, env, name))
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	changed := stream.CachedInfo().Config
	changed.MaxMsgs = 70
	if _, err := js.UpdateStream(ctx, changed); err != nil {
		return 0, fmt.Errorf("change the stream behind the controller's back: %w", err)
	}
	start := time.Now()
	if err := until(ctx, nackMends, isDeclared); err != nil {
		return 0, fmt.Errorf("a stream that somebody changed is not put back: %w%s", err, nackState(ctx, env, name))
	}
	mended = time.Since(start)
	if err := remove(ctx); err != nil {
		return 0, fmt.Errorf("take the object of the stream away: %w", err)
	}
	gone = true
	err = until(ctx, nackMends, func() error {
		_, err := js.Stream(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return nil
		case err == nil:
			return errors.New("it is still there")
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("a stream does not go with its object: %w", err)
	}
	return mended, nil
}

// nackState is what the controller says of a stream, for a message.
func nackState(ctx context.Context, env Env, name string) string {
	o, err := env.Client.Get(ctx, nackAPI, nackKind, nackNamespace, name)
	if err != nil {
		return ""
	}
	ready := kube.StatusCondition(o, "Ready")
	if ready.Status == "" {
		return "; its controller says nothing of it: orrery logs nack"
	}
	return fmt.Sprintf("; its controller says %s: %s", ready.Reason, ready.Message)
}
